"""RetinaNet with BiFormer-S on COCO, 1x; see `maskrcnn_biformer_s.py`.

Command:   python tools/train.py configs/retinanet_biformer_s.py
Published: box AP 45.9 (47.3 with the released code)
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="BiFormer",
        arch="small",
        num_windows=16,
        norm_eval=True,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Published", checkpoint="biformer_small_in1k"),
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=None)

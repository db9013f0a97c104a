"""RetinaNet with UniFormer-S (hybrid attention, windows of 14) on COCO, 1x.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/retinanet_uniformer_s.py
           from ImageNet weights, as published: --pretrained
Published: no RetinaNet result of UniFormer
Note:      the schedule of `maskrcnn_uniformer_s.py`
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
        type="UniFormer",
        arch="small",
        attention="hybrid",
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Published", checkpoint="uniformer_small_in1k"),
    ),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)

"""RetinaNet with SwiftFormer-L1 on COCO, 1x.

Paper:     Shaker et al., SwiftFormer: Efficient Additive Attention for Transformer-based
           Real-time Mobile Vision Applications, ICCV 2023, https://arxiv.org/abs/2303.15446
Command:   python tools/train.py configs/retinanet_swiftformer_l1.py
           from ImageNet weights, as published: --pretrained
Published: no RetinaNet result of SwiftFormer
Note:      the schedule is ours
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
        type="SwiftFormer",
        arch="l1",
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Published", checkpoint="swiftformer_l1_in1k"),
    ),
    neck=dict(in_channels=[96, 192, 384], start_level=0),
)

sync_bn = "torch"

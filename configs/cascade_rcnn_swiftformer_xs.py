"""Cascade R-CNN with SwiftFormer-XS on COCO, 1x.

Paper:     Cai and Vasconcelos, Cascade R-CNN: Delving into High Quality Object Detection,
           CVPR 2018, https://arxiv.org/abs/1712.00726
Command:   python tools/train.py configs/cascade_rcnn_swiftformer_xs.py
           from ImageNet weights: --pretrained
Published: no published result: the combination is ours
Note:      the schedule is Swin's
"""

_base_ = [
    "mmdet::_base_/models/cascade-rcnn_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="xs"),
        init_cfg=dict(type="Published", checkpoint="swiftformer_xs_in1k"),
    ),
    neck=dict(in_channels=[48, 56, 112, 220]),
)

sync_bn = "torch"

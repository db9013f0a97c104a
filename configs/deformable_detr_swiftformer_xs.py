"""Deformable DETR with SwiftFormer-XS on COCO, 50 epochs at batch 32.

Paper:     Zhu et al., Deformable DETR, ICLR 2021, https://arxiv.org/abs/2010.04159
Command:   python tools/train.py configs/deformable_detr_swiftformer_xs.py
           from ImageNet weights, as Deformable DETR was: --pretrained
Published: no published result: the combination is ours
"""

_base_ = [
    "_base_/models/deformable_detr_r50.py",
    "_base_/schedules/coco_detr_50e.py",
    "_base_/datasets/coco_detection_ms.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="xs", out_indices=(1, 2, 3)),
        init_cfg=dict(type="Published", checkpoint="swiftformer_xs_in1k"),
    ),
    neck=dict(in_channels=[56, 112, 220]),
)

sync_bn = "torch"

"""DINO with SwiftFormer-XS on COCO, 12 epochs.

Paper:     Zhang et al., DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object
           Detection, ICLR 2023, https://arxiv.org/abs/2203.03605
Command:   python tools/train.py configs/dino_swiftformer_xs.py
           from ImageNet weights, as DINO was: --pretrained
Published: no published result: the combination is ours
Note:      model and schedule are those of mmdet's config
"""

_base_ = [
    "_base_/models/dino_r50.py",
    "_base_/schedules/coco_detr_12e.py",
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

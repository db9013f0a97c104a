"""Mask2Former with SwiftFormer-XS on COCO's instances, 3x, many scales.

Paper:     Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation,
           CVPR 2022, https://arxiv.org/abs/2112.01527
Command:   python tools/train.py configs/mask2former_coco_swiftformer_xs.py
           from ImageNet weights, as Mask2Former was: --pretrained
Published: no published result: the combination is ours
Note:      36 epochs at DETR's scales; Mask2Former was trained for 50, on crops of 1024×1024
"""

_base_ = [
    "_base_/models/mask2former_coco_r50.py",
    "_base_/schedules/coco_mask2former_3x.py",
    "_base_/datasets/coco_instance_ms.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="xs"),
        init_cfg=dict(type="Published", checkpoint="swiftformer_xs_in1k"),
    ),
    panoptic_head=dict(in_channels=[48, 56, 112, 220]),
)

sync_bn = "torch"

"""Mask2Former with SwiftFormer-XS on ADE20K, 160k at 512×512.

Paper:     Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation,
           CVPR 2022, https://arxiv.org/abs/2112.01527
Command:   python tools/train.py configs/mask2former_ade_swiftformer_xs.py
           from ImageNet weights, as Mask2Former was: --pretrained
Published: no published result: the combination is ours
"""

_base_ = [
    "_base_/models/mask2former_ade_r50.py",
    "_base_/schedules/ade20k_mask2former_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

# mmseg's head consists of mmdet's parts
custom_imports = dict(imports=["hybrid_backbones", "mmdet.models"])
model = dict(
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="xs"),
        init_cfg=dict(type="Published", checkpoint="swiftformer_xs_in1k"),
    ),
    decode_head=dict(in_channels=[48, 56, 112, 220]),
)

sync_bn = "torch"

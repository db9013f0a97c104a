"""Semantic FPN with UniFormer-XS on ADE20K, 80k at batch 32.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/fpn_uniformer_xs.py
           from ImageNet weights, as published: --pretrained
Weights:   python tools/reproduce.py fpn_uniformer_xs
Published: mIoU 44.4 with 19.7M parameters
Departs:   rate decay: from the end of the warm-up, published from the start
"""

_base_ = [
    "_base_/models/fpn_r50.py",
    "_base_/schedules/ade20k_adamw_80k.py",
    "_base_/datasets/ade20k_aligned.py",
    "_base_/runtime_segmentation.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="UniFormerLight",
        arch="xs",
        drop_path_rate=0.1,
        init_cfg=dict(type="Published", checkpoint="uniformer_xs_224_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

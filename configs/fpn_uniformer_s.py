"""Semantic FPN with UniFormer-S (global attention) on ADE20K, 80k at batch 32.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/fpn_uniformer_s.py
           from ImageNet weights, as published: --pretrained
Weights:   python tools/reproduce.py fpn_uniformer_s
Published: mIoU 46.6 with 25M parameters and 247G FLOPs at 512×2048
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
        type="UniFormer",
        arch="small",
        drop_path_rate=0.1,
        init_cfg=dict(type="Published", checkpoint="uniformer_small_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

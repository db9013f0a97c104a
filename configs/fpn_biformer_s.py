"""Semantic FPN with BiFormer-S on ADE20K, 80k at batch 32.

Paper:     Zhu et al., BiFormer: Vision Transformer with Bi-Level Routing Attention,
           CVPR 2023, https://arxiv.org/abs/2303.08810
Command:   python tools/train.py configs/fpn_biformer_s.py
           in mixed precision and from ImageNet weights, as published: --amp --pretrained
Published: mIoU 48.9
Departs:   loss scale: dynamic, published 512; head initialisation: mmseg's, published PyTorch's;
           rate decay: from the end of the warm-up, published from the start
"""

_base_ = [
    "_base_/models/fpn_r50.py",
    "_base_/schedules/ade20k_adamw_80k.py",
    "_base_/datasets/ade20k_aligned.py",
    "_base_/runtime_segmentation.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="BiFormer", arch="small", num_windows=8, drop_path_rate=0.15),
        init_cfg=dict(type="Published", checkpoint="biformer_small_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

sync_bn = "torch"

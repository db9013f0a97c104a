"""Semantic FPN with SwiftFormer-L1 on ADE20K, 40k at batch 32.

Paper:     Shaker et al., SwiftFormer: Efficient Additive Attention for Transformer-based
           Real-time Mobile Vision Applications, ICCV 2023, https://arxiv.org/abs/2303.15446
Command:   python tools/train.py configs/fpn_swiftformer_l1.py
           from ImageNet weights, as published: --pretrained
Published: mIoU 41.4
Note:      decay, power and synchronised statistics were not published; they are ours
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
        type="SwiftFormer",
        arch="l1",
        init_cfg=dict(type="Published", checkpoint="swiftformer_l1_in1k"),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)

param_scheduler = [dict(type="PolyLR", power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000)
sync_bn = "torch"

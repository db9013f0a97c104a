"""Semantic FPN with SwiftFormer-L3 on ADE20K, 40k; see `fpn_swiftformer_l1.py`.

Command:   python tools/train.py configs/fpn_swiftformer_l3.py
Published: mIoU 43.9
"""

_base_ = "fpn_swiftformer_l1.py"

model = dict(
    backbone=dict(arch="l3", init_cfg=dict(checkpoint="swiftformer_l3_in1k")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

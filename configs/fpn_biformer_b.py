"""Semantic FPN with BiFormer-B on ADE20K, 80k; see `fpn_biformer_s.py`.

Command:   python tools/train.py configs/fpn_biformer_b.py
Published: mIoU 49.9
"""

_base_ = "fpn_biformer_s.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint="biformer_base_in1k")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

"""Semantic FPN with UniFormer-XXS on ADE20K, 80k; see `fpn_uniformer_xs.py`.

Command:   python tools/train.py configs/fpn_uniformer_xxs.py
Weights:   python tools/reproduce.py fpn_uniformer_xxs
Published: mIoU 42.3 with 13.5M parameters
"""

_base_ = "fpn_uniformer_xs.py"

model = dict(
    backbone=dict(
        arch="xxs", drop_path_rate=0.0, init_cfg=dict(checkpoint="uniformer_xxs_224_in1k")
    ),
    neck=dict(in_channels=[56, 112, 224, 448]),
)

"""Semantic FPN with UniFormer-S (hybrid, windows of 14) on ADE20K; see `fpn_uniformer_s.py`.

Command:   python tools/train.py configs/fpn_uniformer_s_h14.py
Published: mIoU 46.3 with 25M parameters and 172G FLOPs at 512×2048
"""

_base_ = "fpn_uniformer_s.py"

model = dict(backbone=dict(attention="hybrid"))

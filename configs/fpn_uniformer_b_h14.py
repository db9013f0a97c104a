"""Semantic FPN with UniFormer-B (hybrid, windows of 14) on ADE20K; see `fpn_uniformer_b.py`.

Command:   python tools/train.py configs/fpn_uniformer_b_h14.py
Weights:   python tools/reproduce.py fpn_uniformer_b_h14
Published: mIoU 47.0 with 54M parameters and 328G FLOPs at 512×2048
"""

_base_ = "fpn_uniformer_b.py"

model = dict(backbone=dict(attention="hybrid"))

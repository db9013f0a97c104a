"""Semantic FPN with UniFormer-B (hybrid, windows of 32) on ADE20K; see `fpn_uniformer_b.py`.

Command:   python tools/train.py configs/fpn_uniformer_b_h32.py
Weights:   python tools/reproduce.py fpn_uniformer_b
Published: mIoU 47.7 with 54M parameters and 350G FLOPs at 512×2048
Note:      published as an evaluation of `fpn_uniformer_b`, trained with global attention
"""

_base_ = "fpn_uniformer_b.py"

model = dict(backbone=dict(attention="hybrid", window_size=32))

"""Semantic FPN with UniFormer-S (hybrid, windows of 32) on ADE20K; see `fpn_uniformer_s.py`.

Command:   python tools/train.py configs/fpn_uniformer_s_h32.py
Weights:   python tools/reproduce.py fpn_uniformer_s
Published: mIoU 46.2 with 25M parameters and 199G FLOPs at 512×2048
Note:      published as an evaluation of `fpn_uniformer_s`, trained with global attention
"""

_base_ = "fpn_uniformer_s.py"

model = dict(backbone=dict(attention="hybrid", window_size=32))

"""Semantic FPN with UniFormer-S (windows of 32) on ADE20K; see `fpn_uniformer_s.py`.

Command:   python tools/train.py configs/fpn_uniformer_s_w32.py
Weights:   python tools/reproduce.py fpn_uniformer_s
Published: mIoU 45.6 with 25M parameters and 183G FLOPs at 512×2048
Note:      published as an evaluation of `fpn_uniformer_s`, trained with global attention
"""

_base_ = "fpn_uniformer_s.py"

model = dict(backbone=dict(attention="windows", window_size=32))

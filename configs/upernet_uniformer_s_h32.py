"""UperNet with UniFormer-S (hybrid, windows of 32) on ADE20K; see `upernet_uniformer_s.py`.

Command:   python tools/train.py configs/upernet_uniformer_s_h32.py
Weights:   python tools/reproduce.py upernet_uniformer_s
Published: mIoU 47.0, 48.5 at many scales, with 52M parameters and 955G FLOPs at 512×2048
Note:      published as an evaluation of `upernet_uniformer_s`, trained with global attention
"""

_base_ = "upernet_uniformer_s.py"

model = dict(backbone=dict(attention="hybrid", window_size=32))

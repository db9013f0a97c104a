"""UperNet with UniFormer-B (hybrid, windows of 32) on ADE20K; see `upernet_uniformer_b.py`.

Command:   python tools/train.py configs/upernet_uniformer_b_h32.py
Weights:   python tools/reproduce.py upernet_uniformer_b
Published: mIoU 49.5, 50.7 at many scales, with 80M parameters and 1106G FLOPs at 512×2048
Note:      published as an evaluation of `upernet_uniformer_b`, trained with global attention
"""

_base_ = "upernet_uniformer_b.py"

model = dict(backbone=dict(attention="hybrid", window_size=32))

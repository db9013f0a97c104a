"""UperNet with UniFormer-B (windows of 32) on ADE20K; see `upernet_uniformer_b.py`.

Command:   python tools/train.py configs/upernet_uniformer_b_w32.py
Weights:   python tools/reproduce.py upernet_uniformer_b
Published: mIoU 49.1, 50.6 at many scales, with 80M parameters and 1066G FLOPs at 512×2048
Note:      published as an evaluation of `upernet_uniformer_b`, trained with global attention
"""

_base_ = "upernet_uniformer_b.py"

model = dict(backbone=dict(attention="windows", window_size=32))

"""UperNet with UniFormer-S (windows of 32) on ADE20K; see `upernet_uniformer_s.py`.

Command:   python tools/train.py configs/upernet_uniformer_s_w32.py
Weights:   python tools/reproduce.py upernet_uniformer_s
Published: mIoU 46.6, 48.4 at many scales, with 52M parameters and 939G FLOPs at 512×2048
Note:      published as an evaluation of `upernet_uniformer_s`, trained with global attention
"""

_base_ = "upernet_uniformer_s.py"

model = dict(backbone=dict(attention="windows", window_size=32))

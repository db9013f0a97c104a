"""UperNet with UniFormer-S (hybrid, windows of 14) on ADE20K; see `upernet_uniformer_s.py`.

Command:   python tools/train.py configs/upernet_uniformer_s_h14.py
Published: mIoU 46.9, 48.0 at many scales, with 52M parameters and 947G FLOPs at 512×2048
"""

_base_ = "upernet_uniformer_s.py"

model = dict(backbone=dict(attention="hybrid"))

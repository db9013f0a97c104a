"""UperNet with UniFormer-B (hybrid, windows of 14) on ADE20K; see `upernet_uniformer_b.py`.

Command:   python tools/train.py configs/upernet_uniformer_b_h14.py
Published: mIoU 48.9, 50.0 at many scales, with 80M parameters and 1085G FLOPs at 512×2048
"""

_base_ = "upernet_uniformer_b.py"

model = dict(backbone=dict(attention="hybrid"))

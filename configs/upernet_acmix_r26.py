"""UperNet with ACmix-ResNet-26 on ADE20K, 160k at 512×512; see `upernet_acmix_r50.py`.

Command:   python tools/train.py configs/upernet_acmix_r26.py
Published: no UperNet result, code or weights of ACmix-ResNet
"""

_base_ = "upernet_acmix_r50.py"

model = dict(backbone=dict(depth=26))

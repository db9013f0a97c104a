"""RetinaNet with ACmix-ResNet-38 FPN on COCO, 1x; see `retinanet_acmix_r50.py`.

Command:   python tools/train.py configs/retinanet_acmix_r38.py
Published: no code or weights of ACmix-ResNet
"""

_base_ = "retinanet_acmix_r50.py"

model = dict(backbone=dict(depth=38))

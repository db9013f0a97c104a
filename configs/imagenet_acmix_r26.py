"""ACmix-ResNet-26 on ImageNet-1k, 90 epochs; see `imagenet_acmix_r50.py`.

Command:   python tools/train.py configs/imagenet_acmix_r26.py
Published: top-1 76.1 with 10.6M parameters and 2.3G FLOPs
"""

_base_ = "imagenet_acmix_r50.py"

model = dict(backbone=dict(depth=26))

"""ACmix-ResNet-38 on ImageNet-1k, 90 epochs; see `imagenet_acmix_r50.py`.

Command:   python tools/train.py configs/imagenet_acmix_r38.py
Published: top-1 77.4 with 14.6M parameters and 2.9G FLOPs
"""

_base_ = "imagenet_acmix_r50.py"

model = dict(backbone=dict(depth=38))

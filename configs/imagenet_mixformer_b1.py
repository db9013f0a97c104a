"""MixFormer-B1 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b1.py
Published: top-1 78.9 with 7.9M parameters and 0.7G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b3.py"

model = dict(backbone=dict(arch="b1"), neck=dict(in_channels=256))

"""MixFormer-B2 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b2.py
Published: top-1 80.0 with 9.9M parameters and 0.9G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b3.py"

model = dict(backbone=dict(arch="b2"), neck=dict(in_channels=256))

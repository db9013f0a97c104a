"""MixFormer-B0 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b0.py
Published: top-1 76.5 with 5.1M parameters and 0.4G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b3.py"

model = dict(backbone=dict(arch="b0"), neck=dict(in_channels=192))

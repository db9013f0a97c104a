"""MixFormer-B6 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b6.py
Published: top-1 83.8 with 119.5M parameters and 12.7G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b5.py"

model = dict(backbone=dict(arch="b6"))

"""MixFormer-B6 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b6.py
Published: top-1 83.8 with 119.5M parameters and 12.7G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b4.py"

model = dict(backbone=dict(arch="b6"), neck=dict(in_channels=768))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-7
    dict(type="LinearLR", start_factor=1e-4, end=40, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-6, begin=40, end=300, **iters),
]

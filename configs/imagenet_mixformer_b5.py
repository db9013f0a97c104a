"""MixFormer-B5 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b5.py
Published: top-1 83.5 with 61.7M parameters and 6.8G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b4.py"

model = dict(backbone=dict(arch="b5"), neck=dict(in_channels=768))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-7
    dict(type="LinearLR", start_factor=1e-4, end=40, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-6, begin=40, end=300, **iters),
]

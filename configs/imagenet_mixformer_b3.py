"""MixFormer-B3 on ImageNet-1k, 300 epochs; see `imagenet_mixformer_b4.py`.

Command:   python tools/train.py configs/imagenet_mixformer_b3.py
Published: top-1 81.7 with 16.7M parameters and 1.9G FLOPs at 224×224
"""

_base_ = "imagenet_mixformer_b4.py"

model = dict(backbone=dict(arch="b3"), neck=dict(in_channels=384))
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.04))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-7
    dict(type="LinearLR", start_factor=1.25e-4, end=20, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-6, begin=20, end=300, **iters),
]

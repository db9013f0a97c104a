"""300 epochs of AdamW at batch 1024, 20 of them warm-up: the schedule of MixFormer."""

_base_ = "imagenet_300e.py"

iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-7
    dict(type="LinearLR", start_factor=1e-4, end=20, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-6, begin=20, end=300, **iters),
]

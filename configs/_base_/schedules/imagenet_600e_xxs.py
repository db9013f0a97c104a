"""`imagenet_600e.py` with the rate and the weight decay of UniFormer-XXS."""

_base_ = "imagenet_600e.py"

optim_wrapper = dict(optimizer=dict(lr=3.2e-3, weight_decay=0.1))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-6
    dict(type="LinearLR", start_factor=3.125e-4, end=30, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-5, begin=30, end=600, **iters),
]

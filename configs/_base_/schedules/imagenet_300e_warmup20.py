"""300 epochs of AdamW at batch 1024, 20 of them warm-up, clipped: the schedule of Swin."""

_base_ = "imagenet_300e.py"

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-6
    dict(type="LinearLR", start_factor=1e-3, end=20, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-5, begin=20, end=300, **iters),
]

"""300 epochs of AdamW at batch 2048, 5 of them warm-up: the schedule of SwiftFormer."""

_base_ = "imagenet_300e.py"

optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.025))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-6
    dict(type="LinearLR", start_factor=5e-4, end=5, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-5, begin=5, end=300, **iters),
]
# 16 GPUs of 128 images
auto_scale_lr = dict(base_batch_size=2048)

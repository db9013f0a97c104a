"""600 epochs of AdamW at batch 4096, 30 of them warm-up: the schedule of UniFormer's light nets."""

_base_ = "imagenet_300e.py"

optim_wrapper = dict(
    optimizer=dict(lr=4e-3),
    # no decay of the class token either, which has three dimensions
    paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0))),
)
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-6
    dict(type="LinearLR", start_factor=2.5e-4, end=30, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-5, begin=30, end=600, **iters),
]
train_cfg = dict(max_epochs=600)
# 8 GPUs of 512 images
auto_scale_lr = dict(base_batch_size=4096)

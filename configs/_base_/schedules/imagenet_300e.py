"""300 epochs of AdamW at batch 1024, 5 of them warm-up, cosine decay: the schedule of DeiT."""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    # no decay of biases and of whatever has one dimension
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0)),
    ),
)
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-6
    dict(type="LinearLR", start_factor=1e-3, end=5, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-5, begin=5, end=300, **iters),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=300, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
# 8 GPUs of 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)

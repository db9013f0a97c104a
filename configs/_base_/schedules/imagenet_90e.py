"""90 epochs of SGD at batch 128, 5 of them warm-up, cosine decay: ACmix's training script."""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.25, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=5, end=90, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=90, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
# 4 GPUs of 32 images
auto_scale_lr = dict(enable=False, base_batch_size=128)

"""12 epochs of AdamW at batch 7, one rate for all: LocFormer's README.

The README's rate is 1e-4. The released code divides it by 10 before epochs 0 and 3, whatever its
flags say; here it is divided once, after 10 epochs, as in ViDT, its origin (after 40 of 50).
"""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    # published for the backbone's parameters of one dimension, here for all of them
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[10], gamma=0.1)
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
# 1 GPU of 7 images
auto_scale_lr = dict(enable=False, base_batch_size=7)

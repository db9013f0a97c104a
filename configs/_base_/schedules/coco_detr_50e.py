"""50 epochs of AdamW at batch 32, step after 40: the schedule of Deformable DETR."""

_base_ = "coco_detr_12e.py"

slow = dict(lr_mult=0.1)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys=dict(sampling_offsets=slow, reference_points=slow)),
)
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)
]
train_cfg = dict(max_epochs=50)
# 16 GPUs of 2 images
auto_scale_lr = dict(base_batch_size=32)

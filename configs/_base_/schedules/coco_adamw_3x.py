"""36 epochs of AdamW at batch 16, steps after 27 and 33; otherwise as `coco_adamw_1x.py`."""

_base_ = "coco_adamw_1x.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(max_epochs=36)

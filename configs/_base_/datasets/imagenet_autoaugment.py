"""ImageNet-1k as in `imagenet_strong.py`, with AutoAugment v0 in place of RandAugment."""

_base_ = "imagenet_strong.py"

train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadImageFromFile", imdecode_backend="strict"),
    dict(type="RandomResizedCrop", scale=224, backend="pillow", interpolation="bicubic"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="AutoAugment", policies="imagenet"),
    {{_base_.erasing}},
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

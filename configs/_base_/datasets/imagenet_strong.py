"""ImageNet-1k with DeiT's augmentation, 128 images a GPU: `imagenet.py` for long schedules."""

_base_ = "imagenet.py"

bgr_mean, bgr_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
bicubic = dict(backend="pillow", interpolation="bicubic")
erasing = dict(
    type="RandomErasing",
    erase_prob=0.25,
    mode="rand",
    min_area_ratio=0.02,
    max_area_ratio=1 / 3,
    fill_color=bgr_mean,
    fill_std=bgr_std,
)
train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadImageFromFile", imdecode_backend="strict"),
    dict(type="RandomResizedCrop", scale=224, **bicubic),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    # rand-m9-mstd0.5-inc1
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic"),
    ),
    erasing,
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="strict"),
    dict(type="ResizeEdge", scale=256, edge="short", **bicubic),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

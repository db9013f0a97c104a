"""ADE20K as in `ade20k.py`, tested at multiples of 32 pixels, as Semantic FPN was."""

_base_ = "ade20k.py"

test_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="strict"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    # stretched by less than 32 pixels
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotationsStrict"),
    dict(type="PackSegInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

"""COCO 2017 with boxes and masks: `coco_detection.py`, and masks loaded and measured."""

_base_ = "coco_detection.py"

train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadWholeImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator

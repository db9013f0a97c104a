"""ADE20K's 150 classes at 512×512, 4 images a GPU; ADE_ROOT says where it is."""

data_root = "{{$ADE_ROOT:data/ade/ADEChallengeData2016}}"
train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadImageFromFile", imdecode_backend="strict"),
    dict(type="LoadAnnotationsStrict"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="strict"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    # the labels stay at the size of the original image, at which the metric is computed
    dict(type="LoadAnnotationsStrict"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="SeededInfiniteSampler", shuffle=True),
    dataset=dict(
        type="CheckedADE20KDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CheckedADE20KDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

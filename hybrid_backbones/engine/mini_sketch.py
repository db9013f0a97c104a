"""The mini preset of search by sketch: shapes asked for by wobbly drawings of their outlines.

Detectors of DETR's kind want many steps, and there are minutes. So the networks are small here, of
the same code; what only slows a short training is left out (dropout, stochastic depth, queries that
a few shapes do not need); and sketches are small, with lines that survive it.
"""

from pathlib import Path

from mmengine.config import Config

from ..datasets.shape_sketches import draw_shape_sketches
from ..datasets.shapes import CLASSES, SCENES

BATCH_SIZE, NUM_EPOCHS, LEARNING_RATE = 8, 32, 4e-4
NUM_STEPS = NUM_EPOCHS * SCENES[0][2] // BATCH_SIZE
# of Deformable DETR's recipe; boxes, corrected by every layer, swing at the rate of the others
SLOW = dict(sampling_offsets=0.1, reference_points=0.1, reg_branches=0.3)
# side of a sketch in pixels
SKETCH_SIZE = 64
NUM_QUERIES = 16
NUM_LAYERS = 3
# sizes of backbones, of which a stage has twice the channels of the one before, from 32
CHANNELS = (32, 64, 128, 256)
ARCHS = dict(
    SwinRAM=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16), drop_path_rate=0.0),
    UniFormer=dict(
        embed_dims=CHANNELS, depths=(2, 2, 2, 2), head_dims=32, conv_stem=False, layer_scale=False
    ),
)


def sketch_detection(cfg: Config, root: Path) -> dict:
    """Return the settings of a mini run that replace those of a config that searches by sketch.

    Args:
        cfg: the config; its model shrinks in place.
        root: folder of the mini set; the sketches are drawn into it where they are not there yet.
    """
    sketch_root = draw_shape_sketches(root)
    _shrink(cfg.model)
    load = [
        dict(type="LoadWholeImage"),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="RenderSketch", size=SKETCH_SIZE, line_width=3, antialias=True, fit=True),
    ]
    train = [
        dict(type="SeedSample"),
        *load,
        dict(type="RandomFlip", prob=0.5, direction=["horizontal", "vertical"]),
        dict(type="PackSketchInputs"),
    ]
    val = [
        *load,
        dict(type="Resize", scale_factor=1.0, keep_ratio=True),
        dict(type="PackSketchInputs"),
    ]

    def dataset(split: str, pipeline: list) -> dict:
        asked = cfg[f"{split}_dataloader"].dataset
        return dict(
            type="SketchCocoDataset",
            data_root=str(root / "coco"),
            ann_file=f"annotations/instances_{split}2017.json",
            data_prefix=dict(img=f"{split}2017/"),
            sketch_root=str(sketch_root),
            metainfo=dict(classes=CLASSES),
            test_mode=split == "val",
            pipeline=pipeline,
            **{key: asked[key] for key in ("split", "drawings", "num_sketches")},
        )

    warmup, cfg.default_hooks.checkpoint.interval = NUM_STEPS // 20, NUM_EPOCHS // 4
    return dict(
        train_dataloader=dict(
            batch_size=BATCH_SIZE,
            num_workers=0,
            sampler=dict(type="SeededSampler", shuffle=True),
            dataset=dataset("train", train),
        ),
        val_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dataset("val", val),
        ),
        val_evaluator=dict(
            cfg.val_evaluator, ann_file=str(root / "coco/annotations/instances_val2017.json")
        ),
        train_cfg=dict(
            type="EpochBasedTrainLoop", max_epochs=NUM_EPOCHS, val_interval=NUM_EPOCHS // 4
        ),
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=LEARNING_RATE, weight_decay=1e-4),
            paramwise_cfg=dict(custom_keys={k: dict(lr_mult=v) for k, v in SLOW.items()}),
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.05, by_epoch=False, end=warmup),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=warmup, end=NUM_STEPS),
        ],
    )


def _shrink(model: dict) -> None:
    """Make a small network of LocFormer's, and leave dropout out."""
    model.backbone.update(num_queries=NUM_QUERIES, dropout=0.0)
    body = model.backbone.get("backbone", model.backbone)
    body.drop_path_rate = 0.0
    if body.type in ARCHS:
        body.arch = ARCHS[body.type]
        model.neck.in_channels = [*CHANNELS[1:], model.neck.out_channels]
    model.sketch_encoder.trunk.depth = 18
    model.sketch_encoder.in_channels = 512
    layer = model.decoder.layer_cfg
    layer.self_attn_cfg.dropout = layer.cross_attn_cfg.dropout = layer.ffn_cfg.ffn_drop = 0.0
    model.decoder.num_layers = NUM_LAYERS
    # the last level refines
    model.bbox_head.update(num_levels=NUM_LAYERS + 1, first_refined=NUM_LAYERS, dropout=0.0)
    model.test_cfg.max_per_img = NUM_QUERIES

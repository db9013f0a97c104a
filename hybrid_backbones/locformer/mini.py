"""Mini preset of LocFormer: detect geometric shapes by rough sketches of their outlines.

DETR-like detectors need many training steps, but a mini run lasts minutes. The preset therefore
shrinks the networks, disables dropout and stochastic depth, reduces the number of queries, and
renders small sketches with wide lines.
"""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..mini.preset import coco_evaluator, coco_files, set_interval, val_loader
from ..mini.shapes import CLASSES
from .shape_sketches import draw_shape_sketches

BATCH_SIZE, LEARNING_RATE = 8, 4e-4
NUM_EPOCHS, NUM_WARMUP = 24, 2
# learning-rate multipliers by parameter name, as in Deformable DETR; box branches are added, whose
# predictions would oscillate at the full learning rate, since every layer applies them
SLOW = dict(sampling_offsets=0.1, reference_points=0.1, reg_branches=0.3)
# side of a sketch in pixels
SKETCH_SIZE = 64
NUM_QUERIES = 30
NUM_LAYERS = 3
# DIMS: channels of sketch features, queries and fusions; CHANNELS: those of each stage
DIMS = 128
CHANNELS = (32, 64, 128, 256)
ARCHS = dict(
    SwinRAM=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16), drop_path_rate=0.0),
    UniFormer=dict(
        embed_dims=CHANNELS, depths=(2, 2, 2, 2), head_dims=32, conv_stem=False, layer_scale=False
    ),
)


def sketch_detection(cfg: Config, root: Path) -> dict:
    """Return the settings that turn a LocFormer config into a mini run.

    Args:
        cfg: config of a detector by sketch; its model is shrunk in place.
        root: folder of the mini set; missing sketches are generated in it.
    """
    sketch_root = draw_shape_sketches(root)
    _shrink(cfg.model)
    load = [
        dict(type="LoadImageFromFile", imdecode_backend="strict"),
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

    def dataset(split: str) -> dict:
        given = cfg[f"{split}_dataloader"].dataset
        return dict(
            type="SketchCocoDataset",
            sketch_root=str(sketch_root),
            metainfo=dict(classes=CLASSES),
            **coco_files(root, split),
            **{key: given[key] for key in ("subset", "drawings", "num_sketches")},
        )

    set_interval(cfg, "checkpoint", NUM_EPOCHS // 4)
    # in epochs, whose length differs for open-world data, but updated at every iteration
    smoothly = dict(by_epoch=True, convert_to_iter_based=True)
    return dict(
        train_dataloader=dict(
            batch_size=BATCH_SIZE,
            num_workers=0,
            sampler=dict(type="SeededSampler", shuffle=True),
            dataset=dict(dataset("train"), pipeline=train),
        ),
        val_dataloader=val_loader(dataset("val"), val, 1),
        val_evaluator=coco_evaluator(cfg, root),
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
            dict(type="LinearLR", start_factor=0.05, end=NUM_WARMUP, **smoothly),
            dict(type="CosineAnnealingLR", begin=NUM_WARMUP, end=NUM_EPOCHS, **smoothly),
        ],
    )


def _shrink(model: ConfigDict) -> None:
    """Shrink the network of a config in place and disable dropout."""
    backbone, trunk = model.backbone, model.sketch_encoder.trunk
    backbone.update(num_queries=NUM_QUERIES, fusion_dims=DIMS, dropout=0.0)
    backbone["sketch_dims" if backbone.type == "SwinRAM" else "embed_dims"] = DIMS
    body = backbone.get("backbone", backbone)
    body.drop_path_rate = 0.0
    if body.type in ARCHS:
        body.arch = ARCHS[body.type]
        model.neck.in_channels = [*CHANNELS[1:], DIMS]
    trunk.update(depth=18, base_channels=CHANNELS[0])
    model.sketch_encoder.update(in_channels=8 * CHANNELS[0], out_channels=DIMS)
    model.neck.out_channels = DIMS
    layer = model.decoder.layer_cfg
    for settings in layer.values():
        settings.embed_dims = DIMS
    layer.self_attn_cfg.dropout = layer.cross_attn_cfg.dropout = layer.ffn_cfg.ffn_drop = 0.0
    layer.ffn_cfg.feedforward_channels = 4 * DIMS
    model.decoder.num_layers = NUM_LAYERS
    # only the last level refines
    model.bbox_head.update(
        embed_dims=DIMS, num_levels=NUM_LAYERS + 1, first_refined=NUM_LAYERS, dropout=0.0
    )
    model.test_cfg.max_per_img = NUM_QUERIES

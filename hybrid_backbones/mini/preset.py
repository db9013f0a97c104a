"""Mini preset, which runs any config on the embedded mini set in minutes on two CPU cores.

The network is that of the config. The preset replaces the data, the number of classes, the image
size and the schedule, and removes ImageNet weights, so that nothing needs to be downloaded. Heads
that would not learn in minutes are changed: those with queries (`queries.py`) and those without
RoIs (`dense.py`).
"""

from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_object_from_string

from .dense import halve_depth, is_retina, shrink_retina
from .queries import SLOW, has_queries, shrink_queries
from .settings import dicts, set_num_classes
from .shapes import CLASSES, PALETTE, SCENES, SINGLE_SIZE, SINGLES, draw_mini

# folder of the set, in the folder from which a command is run
MINI_ROOT = "data/mini"
# settings that only suit pre-trained weights or long training, and their replacements
FROM_SCRATCH = dict(
    init_cfg=None, pretrained=None, frozen_stages=-1, norm_eval=False, drop_path_rate=0.0
)
# anchors of half of COCO's size, since the shapes are smaller, and fewer proposals
DETECTION = dict(scales=[4], octave_base_scale=2, nms_pre=200, max_per_img=100)
# epochs and validation interval; heads without RoIs need more steps, which cost less, queries most
LENGTHS = dict(rois=(4, 2), dense=(9, 3), queries=(10, 5))
# training steps of segmentation; one of UperNet takes up to 3.5 s on two cores (X-volution-R50)
NUM_STEPS = dict(dense=180, upernet=60, queries=450)
# anchors (RPN) and RoIs sampled per image for the losses; a RoI costs as much as a small image
NUM_SAMPLES = 32
NUM_SCENES = SCENES[0][2]
NUM_SINGLES = SINGLES[0][1] * len(CLASSES)
# what draws pictures of validation and testing, and the width of mmpretrain's, in pixels
VISUALIZERS = dict(mmdet="EnlargedDetVisualizer", mmseg="EnlargedSegVisualizer")
PICTURE_WIDTH = 512
# (height, width) in pixels, small so that more steps fit into the time
SEGMENTATION_CROP = (96, 96)


def apply_mini(cfg: Config, root: str | Path = MINI_ROOT) -> None:
    """Change a config to its mini run, in place, and draw the mini set if it does not exist.

    Args:
        cfg: config whose `default_scope` is mmdet, mmseg or mmpretrain.
        root: folder of the mini set.

    Raises:
        ValueError: if `default_scope` has another value, or the config lacks what a preset changes.
    """
    presets = {"mmdet": _detection, "mmseg": _segmentation, "mmpretrain": _classification}
    scope = cfg.get("default_scope")
    if scope not in presets:
        raise ValueError(f"--mini needs a default_scope of {sorted(presets)}, got {scope!r}")
    changed = "data_preprocessor" if scope == "mmpretrain" else "val_evaluator"
    if cfg.get(changed) is None:
        raise ValueError(f"--mini needs the config to set {changed}, but it does not")
    for settings in dicts(cfg.model):
        init_cfg = settings.get("init_cfg")
        if isinstance(init_cfg, dict) and init_cfg.get("type") == "Published":
            # not None, which options of the command line could not fill
            del settings["init_cfg"]
    for settings in dicts(cfg.model):
        settings.update({k: v for k, v in FROM_SCRATCH.items() if settings.get(k) is not None})
    # an average over 10,000 steps would stay at the initial weights in a run of some hundreds
    (cfg.get("default_hooks") or {}).pop("ema", None)
    # a config may name its own preset, as the sketch search config does
    own = cfg.get("mini_preset")
    preset = get_object_from_string(own) if own else presets[scope]
    for key, value in preset(cfg, draw_mini(root)).items():
        cfg[key] = value
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    # data and weights of one's own are replaced, too
    cfg.pop("own_data", None)
    cfg.load_from = None
    # the learning rate is that of the preset's batch
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=cfg.train_dataloader.batch_size)
    _enlarge_pictures(cfg)
    set_interval(cfg, "logger", 10)
    set_interval(cfg, "visualization", 10)


def _enlarge_pictures(cfg: Config) -> None:
    """Enlarge the pictures of validation and testing to a width at which one can read them."""
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if cfg.default_scope == "mmpretrain" and hook:
        hook.rescale_factor = PICTURE_WIDTH / SINGLE_SIZE[1]
    elif cfg.default_scope in VISUALIZERS and cfg.get("visualizer"):
        cfg.visualizer.type = VISUALIZERS[cfg.default_scope]


def _detection(cfg: Config, root: Path) -> dict:
    with_mask = any("segm" in metric.get("metric", ()) for metric in dicts(cfg.val_evaluator))
    head = "queries" if has_queries(cfg.model) else "rois" if "roi_head" in cfg.model else "dense"
    set_num_classes(cfg.model, len(CLASSES))
    if head == "queries":
        shrink_queries(cfg.model)
    if head == "dense":
        halve_depth(cfg.model)
    if is_retina(cfg.model):
        shrink_retina(cfg.model)
    for settings in dicts(cfg.model):
        settings.update({k: v for k, v in DETECTION.items() if k in settings})
        if settings.get("type") == "RandomSampler":
            settings.num = NUM_SAMPLES
    load = [
        dict(type="LoadImageFromFile", imdecode_backend="strict"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=with_mask),
    ]
    meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    train = [
        dict(type="SeedSample"),
        *load,
        dict(type="RandomFlip", prob=0.5, direction=["horizontal", "vertical"]),
        dict(type="PackDetInputs"),
    ]
    val = [
        *load,
        dict(type="Resize", scale_factor=1.0, keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=meta_keys),
    ]

    def dataset(split: str) -> dict:
        return dict(
            type="CheckedCocoDataset",
            metainfo=dict(classes=CLASSES, palette=list(PALETTE[1:])),
            **coco_files(root, split),
        )

    epochs, val_interval = LENGTHS[head]
    num_iters = epochs * NUM_SCENES // 4
    return dict(
        train_dataloader=_train_loader(dataset("train"), train, 4, "SeededSampler"),
        val_dataloader=val_loader(dataset("val"), val, 1),
        val_evaluator=coco_evaluator(cfg, root),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=val_interval),
        **_adamw_with_warmup(lr=4e-4, num_iters=num_iters, queries=head == "queries"),
    )


def _segmentation(cfg: Config, root: Path) -> dict:
    classes = ("background", *CLASSES)
    set_num_classes(cfg.model, len(classes))
    queries = has_queries(cfg.model)
    if queries:
        shrink_queries(cfg.model)
    cfg.model.data_preprocessor.size = SEGMENTATION_CROP
    load = [
        dict(type="LoadImageFromFile", imdecode_backend="strict"),
        dict(type="LoadAnnotationsStrict"),
    ]
    train = [
        dict(type="SeedSample"),
        *load,
        # avoid crops of background alone
        dict(type="RandomCrop", crop_size=SEGMENTATION_CROP, cat_max_ratio=0.9),
        dict(type="RandomFlip", prob=0.5, direction=["horizontal", "vertical"]),
        dict(type="PackSegInputs"),
    ]
    val = [*load, dict(type="PackSegInputs")]

    def dataset(split: str) -> dict:
        return dict(
            type="CheckedSegDataset",
            data_root=str(root / "ade"),
            data_prefix=dict(img_path=f"images/{split}", seg_map_path=f"annotations/{split}"),
            img_suffix=".png",
            seg_map_suffix=".png",
            reduce_zero_label=True,
            metainfo=dict(classes=classes, palette=list(PALETTE)),
        )

    has_pyramid = any(part.get("type") == "UPerHead" for part in dicts(cfg.model))
    num_iters = NUM_STEPS["queries" if queries else "upernet" if has_pyramid else "dense"]
    set_interval(cfg, "checkpoint", num_iters // 3)
    return dict(
        train_dataloader=_train_loader(dataset("training"), train, 4, "SeededInfiniteSampler"),
        val_dataloader=val_loader(dataset("validation"), val, 1),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=num_iters, val_interval=num_iters // 3),
        **_adamw_with_warmup(lr=5e-4, num_iters=num_iters, queries=queries),
    )


def _classification(cfg: Config, root: Path) -> dict:
    set_num_classes(cfg.model, len(CLASSES))
    set_num_classes(cfg.data_preprocessor, len(CLASSES))
    cfg.model.head.topk = (1,)
    # no mixup or CutMix
    cfg.model.train_cfg = None
    epochs, batch_size = 8, 16
    train = [
        dict(type="SeedSample"),
        dict(type="LoadImageFromFile", imdecode_backend="strict"),
        dict(type="RandomFlip", prob=0.5, direction="horizontal"),
        dict(type="RandomFlip", prob=0.5, direction="vertical"),
        dict(type="PackInputs"),
    ]
    val = [dict(type="LoadImageFromFile", imdecode_backend="strict"), dict(type="PackInputs")]

    def dataset(split: str) -> dict:
        return dict(
            type="CustomDataset",
            data_root=str(root / "imagenet"),
            data_prefix=split,
            metainfo=dict(classes=CLASSES),
        )

    return dict(
        train_dataloader=_train_loader(dataset("train"), train, batch_size, "SeededSampler"),
        val_dataloader=val_loader(dataset("val"), val, 20),
        val_evaluator=dict(type="Accuracy", topk=(1,)),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=4),
        **_adamw_with_warmup(lr=1e-3, num_iters=epochs * NUM_SINGLES // batch_size),
    )


def set_interval(cfg: Config, hook: str, interval: int) -> None:
    """Set the interval of a default hook, if the config sets the hook."""
    if settings := (cfg.get("default_hooks") or {}).get(hook):
        settings.interval = interval


def coco_files(root: Path, split: str) -> dict:
    """Return the dataset settings for a split of the mini set in COCO's format."""
    return dict(
        data_root=str(root / "coco"),
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"{split}2017/"),
        test_mode=split == "val",
    )


def coco_evaluator(cfg: Config, root: Path) -> dict | list[dict]:
    """Return a config's evaluator, of one metric or several, for the validation split of COCO."""
    for metric in dicts(cfg.val_evaluator):
        # others, such as one that saves predictions, read no annotation file
        if "ann_file" in metric or str(metric.get("type")).endswith("CocoMetric"):
            metric.ann_file = str(root / "coco/annotations/instances_val2017.json")
    return cfg.val_evaluator


def _train_loader(dataset: dict, pipeline: list, batch_size: int, sampler: str) -> dict:
    return dict(
        batch_size=batch_size,
        # decoding small images is faster than transferring them between processes
        num_workers=0,
        drop_last=True,
        sampler=dict(type=sampler, shuffle=True),
        dataset=dict(dataset, pipeline=pipeline),
    )


def val_loader(dataset: dict, pipeline: list, batch_size: int) -> dict:
    """Return the settings of a validation dataloader."""
    return dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(dataset, pipeline=pipeline),
    )


def _adamw_with_warmup(lr: float, num_iters: int, *, queries: bool = False) -> dict:
    """Return AdamW with clipped gradients, and a linear warm-up before a cosine decay."""
    warmup = num_iters // 10
    wrapper = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=lr, weight_decay=0.05),
        clip_grad=dict(max_norm=1.0 if queries else 10.0),
    )
    if queries:
        wrapper["paramwise_cfg"] = dict(custom_keys={k: dict(lr_mult=v) for k, v in SLOW.items()})
    return dict(
        optim_wrapper=wrapper,
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.05, by_epoch=False, end=warmup),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=warmup, end=num_iters),
        ],
    )

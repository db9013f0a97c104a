"""Test-time augmentation: predictions averaged over flips and scales, by the hosts' own models.

A config names the host's model as `tta_model`, and as `tta_ratios` the ratios of its test size. The
pipeline follows from that of the test, so that all configs and the mini set have one.
"""

from collections.abc import Sequence

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from ..checkpoints import unwrap
from ..settings import both_sides, innermost_datasets, type_name

# how the names of the steps begin that follow all changes of an image
LAST_STEPS = ("LoadAnnotations", "Pack")
AS_IT_IS = dict(type="Resize", scale_factor=1.0, keep_ratio=True)


def augment_tests(cfg: Config) -> None:
    """Change a config, in place, to predict with test-time augmentation.

    Args:
        cfg: config with `tta_model`, and with `tta_ratios` unless it has a `tta_pipeline`. Flips
            are omitted if its `tta_flip` is False.

    Raises:
        ValueError: if the config has none, or no step of its test pipeline can be augmented.
    """
    if cfg.get("tta_model") is None:
        raise ValueError(
            "--tta needs the config to set tta_model, the host's model for it, such as "
            "dict(type='SegTTAModel'); this one does not"
        )
    ratios, flip = cfg.get("tta_ratios", [1.0]), cfg.get("tta_flip", True)
    sets = innermost_datasets(cfg.test_dataloader.dataset)
    # a set may be there twice
    for dataset in {id(one): one for one in sets}.values():
        if cfg.get("tta_pipeline") is None:
            dataset.pipeline = augmented(dataset.pipeline, ratios, flip=flip)
        else:
            dataset.pipeline = cfg.tta_pipeline
    if "roi_head" in cfg.model and "mask_head" in cfg.model.roi_head:
        _measure_boxes_only(cfg)
    # it draws the inputs and labels of one view, and expects no others
    (cfg.get("default_hooks") or {}).pop("visualization", None)
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def augmented(pipeline: Sequence[dict], ratios: Sequence[float], *, flip: bool = True) -> list:
    """Return a test pipeline that makes every combination of scales and flips of an image.

    Args:
        pipeline: pipeline of a test, with at most one step `Resize`.
        ratios: ratios of the size of that step; without one, of the size of the image.
        flip: whether each size is also flipped.

    Raises:
        ValueError: if no step packs the image.
    """
    kinds = [type_name(step["type"]) for step in pipeline]
    start = kinds.index("Resize") if "Resize" in kinds else None
    # labels that are loaded after resizing are not flipped
    ends = (i for i in range(start or 0, len(kinds)) if kinds[i].startswith(LAST_STEPS))
    end = next(ends, None)
    if end is None:
        raise ValueError(f"--tta: no step of the test pipeline packs the image, only {kinds}")
    if start is not None:
        before, resize, between = pipeline[:start], pipeline[start], pipeline[start + 1 : end]
    else:
        before, resize, between = pipeline[:end], AS_IT_IS, []
    is_resized = start is not None or list(ratios) != [1.0]
    scales = [_scaled(resize, ratio) for ratio in ratios]
    flips = [dict(type="RandomFlip", prob=prob) for prob in ((0.0, 1.0) if flip else (0.0,))]
    choices = [
        *([scales] if is_resized else []),
        *([step] for step in between),
        flips,
        *([_with_flip(step)] for step in pipeline[end:]),
    ]
    return [*before, dict(type="TestTimeAug", transforms=choices)]


def remove_masks(model: nn.Module) -> None:
    """Let a detector predict boxes only, since mmdet merges no masks of several views."""
    roi_head = getattr(unwrap(model), "roi_head", None)
    if roi_head is not None and roi_head.with_mask:
        roi_head.mask_head = None


def _scaled(resize: dict, ratio: float) -> dict:
    """Return a step that resizes to `ratio` times the size."""
    if "scale_factor" in resize:
        return dict(resize, scale_factor=resize["scale_factor"] * ratio)
    return dict(resize, scale=tuple(int(side * ratio) for side in both_sides(resize["scale"])))


def _with_flip(step: dict) -> dict:
    """Return a step that packs the flip, too, by which a prediction is flipped back."""
    if "meta_keys" not in step:
        return step
    return dict(step, meta_keys=(*step["meta_keys"], "flip", "flip_direction"))


def _measure_boxes_only(cfg: Config) -> None:
    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if isinstance(evaluator.get("metric"), list):
            evaluator.metric = [name for name in evaluator.metric if name != "segm"]
    print_log("--tta: boxes are merged and measured; mmdet merges no masks", logger="current")

"""Measurement of one training step of a whole detector or segmentor on random images.

Its time and memory, and what its layers keep for the backward pass.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from ..config_files import find_config
from ..training.errors import where_in_config
from ..training.mixed_precision import train_in_mixed_precision
from .counts import kept_by_layer
from .probes import extra_memory, time_call
from .rows import follow, measure_alone
from .settings import Settings
from .tables import compare

NUM_OBJECTS = 8  # in each image, about as many as in COCO
NUM_CLASSES = dict(mmdet=80, mmseg=150)


def baseline_of(config: Path) -> Path:
    """Return the config in the same folder with the same method and a plain ResNet-50."""
    parts = config.stem.split("_")
    names = ["_".join([*parts[:length], "r50.py"]) for length in range(1, len(parts) + 1)]
    paths = [config.with_name(name) for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def benchmark_training(settings: Settings, configs: Iterable[Path]) -> list[dict]:
    """Measure the models of configs, each after the baseline that it is compared with.

    Raises:
        ValueError: if there is no such config, or it has no baseline, or is not that of a detector
            or segmentor that trains on images alone.
    """
    baselines = _with_baselines(configs)
    rows = {
        path: dict(config=path.stem) | measure_alone(measure_training, path, settings=settings)
        for path in follow(_jobs(baselines))
    }
    for path, row in rows.items():
        row["ratio"] = compare(rows[baselines.get(path, path)], row)
    return list(rows.values())


def benchmark_layers(settings: Settings, configs: Iterable[Path]) -> list[dict]:
    """Count what the layers of models keep for the backward pass, each model after its baseline.

    Raises:
        ValueError: as of :func:`benchmark_training`.
    """
    baselines = _with_baselines(configs)
    tables = {
        path: measure_alone(measure_layers, path, settings=settings)
        for path in follow(_jobs(baselines))
    }
    rows = []
    for path, table in tables.items():
        if "error" in table:
            rows.append(dict(config=path.stem, layer="all") | table)
        of_baseline = tables[baselines.get(path, path)].get("kept_mib", {})
        for layer, kept in table.get("kept_mib", {}).items():
            row = dict(config=path.stem, layer=layer, kept_mib=kept)
            ratio = compare(dict(kept_mib=of_baseline.get(layer)), row)
            rows.append(row | dict(ratio=ratio))
    return rows


def _with_baselines(configs: Iterable[Path]) -> dict[Path, Path]:
    """Return the baseline of each config, after all have been checked."""
    baselines = {config: baseline_of(config) for config in map(find_config, configs)}
    for path in (*baselines, *baselines.values()):
        _validate(path)
    return baselines


def _jobs(baselines: dict[Path, Path]) -> list[Path]:
    """Return all configs once, each after its baseline."""
    return list(dict.fromkeys(path for pair in baselines.items() for path in reversed(pair)))


def _validate(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"there is no config {path} (each is compared with <method>_r50.py)")
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program and can raise anything
        raise ValueError(f"cannot read the config {path}: {where_in_config(error)}") from error
    known = cfg.get("default_scope") in NUM_CLASSES and "model" in cfg
    if not known or "sketch_encoder" in cfg.model:
        raise ValueError(
            f"expected a config of a detector or segmentor that learns from pictures, got {path}"
        )


def measure_training(path: Path, settings: Settings) -> dict:
    """Measure a training step of `tools/train.py`; memory includes weights and optimizer."""
    torch.set_num_threads(settings.threads)
    cfg = _read(path, settings)
    steps = []

    def build_and_step():
        model = _build(cfg, settings)
        data = random_batch(cfg.default_scope, settings)
        wrapper = _build_optim_wrapper(model, cfg, settings)
        steps.append(partial(model.train_step, data, wrapper))
        steps[0]()

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        memory = extra_memory(build_and_step, device=settings.device)
        time = time_call(steps[0], **settings.clock)
    return dict(
        train_ms=time,
        train_images_per_s=1e3 * settings.batch / time["median"],
        train_memory_mib=memory,
    )


def measure_layers(path: Path, settings: Settings) -> dict:
    """Count what the parts of a model, and the parts of its backbone, keep in a training step."""
    torch.set_num_threads(settings.threads)
    cfg = _read(path, settings)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = _build(cfg, settings)
        data = model.data_preprocessor(random_batch(cfg.default_scope, settings), training=True)
        wrapper = _build_optim_wrapper(model, cfg, settings)
        layers = dict(model.named_children()) | dict(_parts(model.backbone, "backbone"))

        def forward():
            with wrapper.optim_context(model):
                model(**data, mode="loss")

        kept = kept_by_layer(forward, layers, [*model.parameters(), *model.buffers()])
    kept["all"] = sum(kept.values())
    return dict(kept_mib={name: size / 2**20 for name, size in kept.items()})


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that a module calls, those of its lists one by one."""
    for key, part in module.named_children():
        path = f"{name}.{key}"
        yield from _parts(part, path) if isinstance(part, nn.ModuleList) else [(path, part)]


def _read(path: Path, settings: Settings) -> Config:
    """Read a config, without weights to download."""
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    if "size" in cfg.model.data_preprocessor:  # smaller images would be padded to it
        cfg.model.data_preprocessor.size = settings.size
    return cfg


def _build(cfg: Config, settings: Settings) -> BaseModel:
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    return model.to(settings.device).train()


def _build_optim_wrapper(model: BaseModel, cfg: Config, settings: Settings) -> OptimWrapper:
    wrapper = cfg.optim_wrapper
    if settings.dtype != "float32":
        wrapper = train_in_mixed_precision(wrapper, settings.device, settings.dtype)
    return build_optim_wrapper(model, wrapper)


def random_batch(scope: str, settings: Settings) -> dict:
    """Return noise images with random boxes, masks and classes, equal at each call."""
    batch = demo_mm_inputs(
        settings.batch,
        (3, *settings.size),
        num_items=[NUM_OBJECTS] * settings.batch,
        num_classes=NUM_CLASSES[scope],
        with_mask=True,
    )
    if scope == "mmdet":
        return batch
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(
        NUM_CLASSES[scope], (settings.batch, 1, *settings.size), generator=generator
    )
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=label),
            metainfo=dict(img_shape=settings.size, ori_shape=settings.size),
        )
        for label in labels
    ]
    return pseudo_collate(
        [dict(inputs=x, data_samples=s) for x, s in zip(batch["inputs"], samples, strict=True)]
    )

"""Check of all data of a config before a training: `tools/check_data.py`."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..datasets.inspection.charts import draw_overview
from ..datasets.inspection.coco import inspect_coco
from ..datasets.inspection.findings import Findings, Problems, shared_images
from ..datasets.inspection.folders import inspect_folders
from ..datasets.inspection.sheet import draw_sheet
from ..mini.preset import dicts
from .checks import require_data
from .launch import read_config
from .requirements import require_keys, require_writable_file
from .seeding import SeededIndex

LOADERS = dict(training="train_dataloader", validation="val_dataloader")
SHARED = "images that are in the training set, too"
NO_TRAINING = "other reasons that a training does not begin"
# what data sets raise that cannot be used
FAILURES = (ValueError, RuntimeError, OSError)
# number of samples on the sheet, and of those that are tried for it
NUM_SAMPLES, NUM_TRIED = 12, 48


class DataReport(NamedTuple):
    """Lines about each set and each kind of problem, the number of problems, and the pictures."""

    lines: list[str]
    num_problems: int
    pictures: list[Path]


def check_data(args: Namespace) -> DataReport:
    """Check the training and the validation set of the config given on the command line.

    Args:
        args: `config`, `mini` and `cfg_options`, and `out`, the folder of the pictures or None.

    Raises:
        ValueError: if the config cannot be used, or names files and folders that do not exist.
    """
    cfg = read_config(args)
    require_keys(cfg, *LOADERS.values())
    for loader in LOADERS.values():
        require_data(cfg, cfg[loader].dataset)
    name = Path(args.config).stem + ("_mini" if args.mini else "")
    out = Path(args.out or f"work_dirs/check_data/{name}")
    pictures = [out / "overview.png", out / "samples.png"]
    for picture in pictures:
        require_writable_file(picture)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sets = {name: _inspect(cfg, loader, name) for name, loader in LOADERS.items()}
        shared = shared_images(sets["validation"], sets["training"])
        sets["validation"].problems.add(SHARED, *shared)
        draw_overview(sets, pictures[0])
        samples, classes = _augmented(cfg, sets["training"].problems)
    if samples:
        draw_sheet(samples, classes, pictures[1])
    lines = []
    for name, findings in sets.items():
        first, *rest = findings.lines()
        lines += [f"{name}: {first}", *(f"  {line}" for line in rest)]
    num_problems = sum(len(findings.problems) for findings in sets.values())
    return DataReport(lines, num_problems, pictures[: 1 + bool(samples)])


def _inspect(cfg: Config, loader: str, name: str) -> Findings:
    """Inspect the data set of a dataloader."""
    settings, quiet = cfg[loader].dataset, not sys.stdout.isatty()
    if cfg.default_scope != "mmdet":
        return inspect_folders(settings, name, quiet=quiet)
    dataset = DATASETS.build(dict(settings, lazy_init=True))
    return inspect_coco(
        Path(dataset.ann_file),
        Path(dataset.data_prefix["img"]),
        dataset.metainfo["classes"],
        name,
        # sets that choose classes allow others, as those by sketch always do
        allow_others="classes" in (settings.get("metainfo") or {}) or "sketch_root" in settings,
        with_masks=any(step.get("with_mask") for step in dicts(settings.pipeline)),
        evaluates=dataset.test_mode,
        quiet=quiet,
    )


def _augmented(cfg: Config, problems: Problems) -> tuple[list[dict], Sequence[str]]:
    """Return samples of the training set, spread over it, and its classes.

    Files that cannot be loaded have been reported; what else would stop the training is added.
    """
    samples: list[dict] = []
    classes: Sequence[str] = ()
    reasons: list[str] = []
    places: Sequence[int] = ()
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        classes = dataset.metainfo["classes"]
        places = np.random.default_rng(0).permutation(len(dataset))[:NUM_TRIED].tolist()
    except FAILURES as error:
        reasons = [str(error)]
    for place in places:
        if len(samples) == NUM_SAMPLES:
            break
        try:
            samples.append(dataset[SeededIndex(place, (0, place))])
        except FAILURES as error:
            reasons.append(str(error))
    if not problems:
        problems.add(NO_TRAINING, *reasons)
    return samples, classes

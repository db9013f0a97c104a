"""Check of all data of a config before a training: `tools/check_data.py`."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..datasets.inspection.charts import draw_overview
from ..datasets.inspection.coco import inspect_coco
from ..datasets.inspection.findings import Findings, Problems, printable, shared_images
from ..datasets.inspection.folders import inspect_folders
from ..datasets.inspection.lettering import fonts_for
from ..datasets.inspection.sheet import draw_sheet
from ..mini.preset import dicts
from .checks import require_data
from .own_data import apply_own_data
from .requirements import require_keys, require_writable_file
from .run_config import read_settings
from .seeding import SeededIndex

LOADERS = dict(training="train_dataloader", validation="val_dataloader")
NO_SET = "sets that cannot be read"
SHARED = "images that are in the training set, too"
NO_TRAINING = "other reasons that a training does not begin"
# what data sets raise that cannot be used; mmpretrain's asserts that classes have folders
FAILURES = (ValueError, RuntimeError, OSError, AssertionError)
# number of samples on the sheet, and of those that are tried for it
NUM_SAMPLES, NUM_TRIED = 12, 48


class DataReport(NamedTuple):
    """What a check found.

    Attributes:
        lines: lines about each set and each kind of problem.
        num_problems: number of problems.
        pictures: function that draws each picture, by its file.
        names: names of classes in the pictures.
    """

    lines: list[str]
    num_problems: int
    pictures: dict[Path, Callable[[Path], None]]
    names: set[str]


def check_data(args: Namespace) -> DataReport:
    """Check the training and the validation set, if any, of the config of the command line.

    Args:
        args: `config`, `mini` and `cfg_options`, and `out`, the folder of the pictures or None.

    Raises:
        ValueError: if the config cannot be used, or names files and folders that do not exist;
            those of `own_data` are among the problems.
    """
    cfg = read_settings(args)
    require_keys(cfg, LOADERS["training"])
    loaders = {name: key for name, key in LOADERS.items() if cfg.get(key) is not None}
    # what is wrong with own data, but with none of the sets by itself
    faults: list[str] = []
    if cfg.get("own_data") is None:
        for loader in loaders.values():
            require_data(cfg, cfg[loader].dataset)
    else:
        apply_own_data(cfg, faults)
    name = Path(args.config).stem + ("_mini" if args.mini else "")
    out = Path(args.out or f"work_dirs/check_data/{name}")
    overview, sheet = out / "overview.png", out / "samples.png"
    for picture in (overview, sheet):
        require_writable_file(picture)
        # one of an earlier check would be mistaken for that of this one
        picture.unlink(missing_ok=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sets = {name: _inspect(cfg, loader, name) for name, loader in loaders.items()}
        if "validation" in sets:
            shared = shared_images(sets["validation"], sets["training"])
            sets["validation"].problems.add(SHARED, *shared)
        samples, classes = _augmented(cfg, sets["training"].problems)
    lines = list(faults)
    for name, findings in sets.items():
        first, *rest = findings.lines()
        lines += [f"{name}: {first}", *(f"  {line}" for line in rest)]
    pictures: dict[Path, Callable[[Path], None]] = {}
    if listed := {name: one for name, one in sets.items() if one.images and one.classes}:
        pictures[overview] = partial(draw_overview, listed)
    else:
        lines.append(f"{overview.name} is not drawn, since no set has both images and classes")
    if samples:
        pictures[sheet] = partial(draw_sheet, samples, classes)
    else:
        lines.append(f"{sheet.name} is not drawn, since no sample of the training set can be made")
    num_problems = len(faults) + sum(len(findings.problems) for findings in sets.values())
    names = set(classes).union(*(one.classes for one in listed.values()))
    return DataReport([*map(printable, lines)], num_problems, pictures, names)


def draw_pictures(report: DataReport) -> list[str]:
    """Draw the pictures, and return lines that name those to look at and those that failed."""
    lines: list[str] = []
    drawn: list[str] = []
    with fonts_for(report.names) as missing:
        if missing:
            lines.append(
                f"no installed font has {missing}: the pictures have boxes instead; install one "
                "that does, such as Noto Sans CJK"
            )
        for path, draw in report.pictures.items():
            try:
                draw(path)
            except FAILURES as error:
                lines.append(f"{path.name} cannot be drawn: {error!r}")
            else:
                drawn.append(str(path))
    if drawn:
        lines.append(f"look at {' '.join(drawn)}")
    return [*map(printable, lines)]


def _inspect(cfg: Config, loader: str, name: str) -> Findings:
    """Inspect the data set of a dataloader; that it cannot be read at all is a problem as well."""
    settings, quiet = cfg[loader].dataset, not (sys.stdout and sys.stdout.isatty())
    if "dataset" in settings or "datasets" in settings:
        findings = Findings(())
        findings.problems.add(
            NO_SET, f"{settings.type} wraps other sets: check each as a dataset of its own"
        )
        return findings
    if cfg.default_scope != "mmdet":
        try:
            return inspect_folders(settings, name, quiet=quiet)
        except (ValueError, FileNotFoundError, AssertionError) as error:
            findings = Findings(())
            findings.problems.add(NO_SET, str(error))
            return findings
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

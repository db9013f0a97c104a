"""Real runs: what the training of a config on COCO, ADE20K or ImageNet costs, and its commands."""

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..config_files import name_config
from ..settings import type_name
from .runs import Run
from .zoo_table import read_zoo

# images of the training sets; of COCO those with annotations, which the configs keep
NUM_IMAGES = dict(mmdet=117_266, mmseg=20_210, mmpretrain=1_281_167)
# what the data sets of our configs are called, by framework
DATASETS = dict(
    mmdet=("CheckedCocoDataset",), mmseg=("CheckedADE20KDataset",), mmpretrain=("ImageNet",)
)
# where our configs look for data, by the environment variable that says another place
ROOTS = dict(
    COCO_ROOT="data/coco/",
    ADE_ROOT="data/ade/ADEChallengeData2016",
    IMAGENET_ROOT="data/imagenet",
    SKETCH_ROOT="data/sketches",
)
# of the commands for configs that see the same images with any number
NUM_GPUS = 8


class Speed(NamedTuple):
    """Training speed of a config at the size of real images."""

    config: str
    images_per_s: float
    device: str


class Cost(NamedTuple):
    """Expected cost of a real run in hours of one device; two different ends if estimated."""

    low: float
    high: float
    device: str

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{_hours(self.low)} on {self.device}"
        return f"about {_hours(self.low)} to {_hours(self.high)} on {self.device}"


def with_default_roots(text: str, cfg: Config) -> str:
    """Return the JSON of a config's settings as it is where no variable says where data are."""
    roots = {name: os.environ[name] for name in ROOTS if name in cfg.env_variables}
    # one may lie in another
    for name, root in sorted(roots.items(), key=lambda item: -len(item[1])):
        # the folder itself, or a path in it
        end = "" if root.endswith("/") else r'(?=[/"])'
        text = re.sub(f'"{re.escape(json.dumps(root)[1:-1])}{end}', f'"{ROOTS[name]}', text)
    return text


def count_images(cfg: Config) -> int | None:
    """Return how many images a training sees, None if the size of its data set is not known.

    Args:
        cfg: config without the mini preset.
    """
    train = cfg.get("train_cfg") or {}
    if train.get("max_iters"):
        batch = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
        return batch and batch * train["max_iters"]
    dataset = (cfg.get("train_dataloader") or {}).get("dataset") or {}
    kind = type_name(dataset.get("type"))
    if kind in DATASETS.get(cfg.default_scope, ()) and train.get("max_epochs"):
        return NUM_IMAGES[cfg.default_scope] * train["max_epochs"]
    return None


def count_gpus(cfg: Config) -> int | None:
    """Return with how many GPUs a training sees as many images as :func:`count_images` says.

    They make up the batch of the publication in a schedule of iterations; None for one of epochs,
    which sees all images with any number.
    """
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    if not base or not (cfg.get("train_cfg") or {}).get("max_iters"):
        return None
    return max(1, round(base / cfg.train_dataloader.batch_size))


def read_speeds(tables: Iterable[Path]) -> list[Speed]:
    """Read the training speeds in tables of ``tools/benchmark.py train``.

    Raises:
        ValueError: if a file is no such table.
    """
    speeds: list[Speed] = []
    for path in tables:
        try:
            table = json.loads(path.read_text())
            # of several dtypes that without flags
            speeds += [
                Speed(row["config"], row["train_images_per_s"], table["device_name"])
                for row in table["rows"]
                if "error" not in row and row.get("dtype", table["dtype"]) == "float32"
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no table of hb benchmark train ({type(error).__name__}: {error})"
            ) from error
    return speeds


def expected_cost(run: Run, speeds: Sequence[Speed]) -> Cost | None:
    """Return the expected cost of a real run: measured, or else estimated from other configs.

    An estimate supposes that a FLOP takes as long as in the measured configs of the same framework:
    its ends are those of the fastest and of the slowest of them.
    """
    if run.images is None:
        return None
    result = run.result or {}
    if not run.mini and result.get("train_images_per_s"):
        speed = result["train_images_per_s"] / result["processes"]
        return _cost(run.images, [speed], result["device"])
    own = [speed for speed in speeds if speed.config == run.name]
    if own:
        return _cost(run.images, [own[0].images_per_s], own[0].device)
    # FLOPs, by the images that they are counted for, which differ between the frameworks
    macs = {row.config: (row.size, row.macs) for row in read_zoo().rows}
    size, mine = macs.get(run.name, (None, 0.0))
    alike = [s for s in speeds if s.config in macs and macs[s.config][0] == size]
    if not alike:
        return None
    rates = [speed.images_per_s * macs[speed.config][1] / mine for speed in alike]
    return _cost(run.images, rates, alike[0].device)


def _cost(images: int, images_per_s: list[float], device: str) -> Cost:
    hours = [images / speed / 3600 for speed in images_per_s]
    return Cost(min(hours), max(hours), device)


def _hours(hours: float) -> str:
    return f"{hours:.3g} h" if hours < 1000 else f"{hours / 24:.0f} days"


def commands(runs: Sequence[Run], program: str) -> str:
    """Return the commands of the real runs of some configs: Slurm, torchrun, and one alone.

    Args:
        runs: runs of the configs; those with another number of GPUs have commands of their own.
        program: words by which the leaderboard is started.
    """
    groups: dict[int, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.gpus or NUM_GPUS, []).append(run)
    return "\n".join(_commands(members, program, gpus) for gpus, members in groups.items())


def _commands(runs: Sequence[Run], program: str, gpus: int) -> str:
    names = [shlex.quote(name_config(run.config)) for run in runs]
    lines = "\n".join(f"  {name}" for name in dict.fromkeys(names))
    # Slurm has one job for a folder at a time
    out = f"work_dirs/leaderboard_{gpus}_gpus"
    flags = f"--pretrained --auto-scale-lr --gpus {gpus} --out {out}"
    return f"""\
```bash
configs=(
{lines}
)
# on a cluster: a task of a Slurm array for each config, each on one node with {gpus} GPUs
{program} "${{configs[@]}}" {flags} \\
  --launcher slurm --jobs 4 --sbatch partition=gpu time=7-00:00:00
# on one machine with {gpus} GPUs: one config after the other
{program} "${{configs[@]}}" {flags} \\
  --launcher torchrun
# one config alone; with --pretrained if it names published weights
torchrun --nproc-per-node {gpus} -m hybrid_backbones.cli train {names[0]} \\
  --launcher pytorch --auto-scale-lr
```
"""

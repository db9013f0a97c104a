"""Small data sets of one's own, and configs that name them, for tests of `own_data`."""

import json
from argparse import Namespace

from PIL import Image
from tool_runs import REPOSITORY

from hybrid_backbones.mini.preset import dicts
from hybrid_backbones.training.run_config import read_config

CONFIGS = REPOSITORY / "configs"
# in an order of their own
NAMES = ["nut", "bolt", "washer"]
LABELS = ["soil", "crop", "weed"]
COCO = dict(
    train=dict(images="train", annotations="train.json"),
    val=dict(images="val", annotations="val.json"),
)
MAPS = dict(
    classes=LABELS,
    train=dict(images="images/train", annotations="labels/train"),
    val=dict(images="images/val", annotations="labels/val"),
)
# settings of a config that has no validation and no test set
TRAINS_ALONE = {
    f"{part}_{key}": None for part in ("val", "test") for key in ("dataloader", "cfg", "evaluator")
}


def write_coco(path, names=NAMES):
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [dict(id=7 * i, name=name) for i, name in enumerate(names, 1)]
    path.write_text(json.dumps(dict(images=[], annotations=[], categories=categories)))


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)


def write_sets(folder, parts=("train", "val")):
    """Write folders of both kinds, as the two configs have them by default."""
    for part in parts:
        write_coco(folder / f"{part}.json")
        write_image(folder / part / "a.jpg")
        write_image(folder / "images" / part / "a.jpg")
        write_image(folder / "labels" / part / "a.png")
    return folder


def read(folder, base, mini=False, options=None, settings=(), **own):
    return read_own(folder, base, dict(root=str(folder)) | own, mini, options, settings)


def read_own(folder, base, own, mini=False, options=None, settings=()):
    """Read a config that inherits another one, with `own_data`, and other settings by name."""
    lines = [f"_base_ = {str(CONFIGS / base) + '.py'!r}", f"own_data = {own!r}"]
    lines += [f"{name} = {value!r}" for name, value in dict(settings).items()]
    path = folder / "mine.py"
    path.write_text("\n".join(lines))
    return read_config(Namespace(config=str(path), mini=mini, cfg_options=options))


def head_sizes(cfg):
    return {one.num_classes for one in dicts(cfg.model) if "num_classes" in one}

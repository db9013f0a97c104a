"""Data of one's own: the key `own_data` of a config becomes its data sets, metrics and head sizes.

A detector takes images and a file in COCO's format, whose categories are the classes; a segmentor
takes a folder of images, one of label maps, and a list of classes:

    own_data = dict(
        root="/data/screws",
        train=dict(images="train", annotations="train.json"),
        val=dict(images="val", annotations="val.json"),
    )
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..mini.settings import dicts, set_num_classes
from .errors import did_you_mean

PARTS = dict(train=("train",), val=("val", "test"))
FILES = ("images", "annotations")
KEYS = ("root", "classes", "reduce_zero_label", *PARTS)
# what Pillow reads, as the endings of images and label maps in folders
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def apply_own_data(cfg: Config) -> None:
    """Replace the data of a config by its `own_data`, in place, and remove this key.

    The classes, and all that follows from their number, come from one place: the annotation file,
    or the list `own_data.classes`.

    Args:
        cfg: config of a detector or segmentor; without `own_data` it stays as it is.

    Raises:
        ValueError: if `own_data` lacks an entry or names what does not exist, if the sets have
            different classes, or if the config is for other tasks.
    """
    own = cfg.get("own_data")
    if own is None:
        return
    _require_entries(own)
    dataset = cfg.train_dataloader.dataset
    if dataset.type == "CheckedCocoDataset":
        classes = _classes_of_coco(own)
        _use_coco(cfg, own, classes)
    elif dataset.type in ("CheckedSegDataset", "CheckedADE20KDataset"):
        classes = _listed_classes(own)
        _use_label_maps(cfg, own, classes)
    else:
        raise ValueError(
            "own_data is for the configs of detectors and segmentors, but this one reads "
            f"{dataset.type}: set train_dataloader.dataset instead"
        )
    set_num_classes(cfg.model, len(classes))
    cfg.pop("own_data")


def _require_entries(own: dict) -> None:
    """Check that `own_data` has the entries that it must have, no others, and that files exist."""
    for settings, known in ((own, KEYS), *((own.get(part), FILES) for part in PARTS)):
        if not isinstance(settings, dict):
            raise ValueError(
                "own_data needs root, and train and val, each a dict of images and annotations"
            )
        for key in settings:
            if key not in known:
                raise ValueError(f"own_data has no {key!r}{did_you_mean(key, known)}")
    if missing := [f"{part}.{key}" for part in PARTS for key in FILES if key not in own[part]]:
        raise ValueError(f"own_data does not set {', '.join(missing)}")
    root = Path(own.get("root", ""))
    absent = [own[part][key] for part in PARTS for key in FILES if not _at(own, part, key).exists()]
    if absent:
        raise ValueError(
            f"own_data: there is no {' and no '.join(absent)} in {root.absolute()}: correct "
            "own_data.root, or the entries of train and val. The config in the work dir of a "
            "training is complete and needs no data to predict"
        )


def _at(own: Any, part: str, key: str) -> Path:
    return Path(own.get("root", "")) / own[part][key]


def _classes_of_coco(own: dict) -> tuple[str, ...]:
    """Return the names of the categories in the order of the annotation files.

    mmdet numbers classes in this order, whatever that of `classes` in a config.
    """
    chosen = own.get("classes")
    train, val = (_categories(_at(own, part, "annotations"), chosen) for part in PARTS)
    if train != val:
        raise ValueError(
            "own_data: the annotation files have different categories, or the same in another "
            f"order: {_listed(train)} to train on and {_listed(val)} to validate on; write the "
            "same list of categories into both"
        )
    return train


def _categories(path: Path, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Read the names of the categories of a COCO file, or of the chosen ones."""
    try:
        names = [category["name"] for category in json.loads(path.read_bytes())["categories"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"own_data: cannot read the categories of {path} ({type(error).__name__}: {error}); "
            "expected a file in COCO's format"
        ) from error
    repeated = [str(name) for name, count in Counter(names).items() if count > 1]
    if repeated or not names:
        raise ValueError(
            f"own_data: {path} has {'several categories ' if repeated else 'no categories'}"
            f"{', '.join(repeated)}: expected each name once"
        )
    if unknown := [name for name in chosen or () if name not in names]:
        raise ValueError(
            f"own_data.classes: {path} has no {_listed(unknown)}, but {_listed(names)}"
        )
    return tuple(name for name in names if chosen is None or name in chosen)


def _listed_classes(own: dict) -> tuple[str, ...]:
    classes = own.get("classes")
    if not isinstance(classes, list | tuple) or not all(isinstance(x, str) for x in classes):
        raise ValueError(
            "own_data.classes must list the names of the labels of the label maps, from label 0 "
            f"on (from 1 with reduce_zero_label=True), got {classes!r}"
        )
    return tuple(classes)


def _use_coco(cfg: Config, own: Any, classes: tuple[str, ...]) -> None:
    """Set the files and classes of data sets and metrics in COCO's format."""
    for part, names in PARTS.items():
        for name in names:
            cfg[f"{name}_dataloader"].dataset.update(
                data_root=str(own.root),
                ann_file=own[part].annotations,
                data_prefix=dict(img=own[part].images),
                metainfo=dict(classes=classes),
            )
    for metric in dicts([cfg.val_evaluator, cfg.test_evaluator]):
        if "ann_file" in metric:
            metric.ann_file = str(_at(own, "val", "annotations"))


def _use_label_maps(cfg: Config, own: Any, classes: tuple[str, ...]) -> None:
    """Set the folders and classes of data sets of label maps."""
    for part, names in PARTS.items():
        endings = dict(
            img_suffix=_ending(_at(own, part, "images")),
            seg_map_suffix=_ending(_at(own, part, "annotations")),
        )
        for name in names:
            dataset = cfg[f"{name}_dataloader"].dataset
            dataset.update({key: x for key, x in endings.items() if key not in dataset})
            dataset.update(
                type="CheckedSegDataset",
                data_root=str(own.root),
                data_prefix=dict(img_path=own[part].images, seg_map_path=own[part].annotations),
                reduce_zero_label=bool(own.get("reduce_zero_label", False)),
                metainfo=dict(classes=classes),
            )


def _ending(folder: Path) -> str:
    """Return the ending of most images in a folder, and its subfolders."""
    counts = Counter(
        path.suffix for path in folder.rglob("*") if path.suffix.lower() in ENDINGS
    ).most_common()
    if len(counts) != 1:
        found = ", ".join(f"{count} of {ending}" for ending, count in counts) or "none"
        raise ValueError(
            f"own_data: expected images of one ending in {folder}, such as .jpg or .png, found "
            f"{found}: convert the others, or move them elsewhere"
        )
    return counts[0][0]


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" * (len(names) > 5))

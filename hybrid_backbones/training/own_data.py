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
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..datasets.pictures import IGNORED
from ..mini.settings import dicts, set_num_classes
from ..suggestions import did_you_mean

PARTS = dict(train=("train",), val=("val", "test"))
FILES = ("images", "annotations")
KEYS = ("root", "classes", "reduce_zero_label", *PARTS)
# what Pillow reads, as the endings of images and label maps in folders
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def apply_own_data(cfg: Config, faults: list[str] | None = None) -> None:
    """Replace the data of a config by its `own_data`, in place, and remove this key.

    The classes, and all that follows from their number, come from one place: the annotation file,
    or the list `own_data.classes`.

    Args:
        cfg: config of a detector or segmentor; without `own_data` it stays as it is.
        faults: list that gets the faults of files, instead of an error for the first one, for a
            check of all data: but not those that the inspection of each set reports itself. Sets
            with different classes keep their own.

    Raises:
        ValueError: if `own_data` lacks an entry or names what does not exist, if the sets have
            different classes, or if the config is for other tasks.
    """
    own = cfg.get("own_data")
    if own is None:
        return
    _require_entries(own)
    _expand_home(own)
    _require_files(own, faults)
    dataset = cfg.train_dataloader.dataset
    if dataset.type == "CheckedCocoDataset":
        classes = _classes_of_coco(own, faults)
        _use_coco(cfg, own, classes)
        num_classes = len(classes["train"])
    elif dataset.type in ("CheckedSegDataset", "CheckedADE20KDataset"):
        labels = _listed_classes(own)
        _use_label_maps(cfg, own, labels, faults)
        num_classes = len(labels)
    else:
        raise ValueError(
            "own_data is for the configs of detectors and segmentors, but this one reads "
            f"{dataset.type}: set train_dataloader.dataset instead"
        )
    set_num_classes(cfg.model, num_classes)
    cfg.pop("own_data")


def _refuse(fault: str, faults: list[str] | None) -> None:
    """Raise a ValueError, or add it to the faults where they are collected."""
    if faults is None:
        raise ValueError(fault)
    faults.append(fault)


def _require_entries(own: Any) -> None:
    """Check that `own_data` has all of its entries, of the right types, and no others."""
    parts = [own.get(part) for part in PARTS] if isinstance(own, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            "own_data needs root, and train and val, each a dict of images and annotations"
        )
    for settings, known in ((own, KEYS), *((part, FILES) for part in parts)):
        for key in settings:
            if key not in known:
                raise ValueError(f"own_data has no {key!r}{did_you_mean(key, known)}")
    paths = {"root": own.get("root")}
    paths |= {f"{part}.{key}": own[part].get(key) for part in PARTS for key in FILES}
    if missing := [name for name, path in paths.items() if path is None]:
        raise ValueError(f"own_data does not set {', '.join(missing)}")
    for name, path in paths.items():
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"own_data.{name} must be a path, as text, got {path!r}")
    if own.get("classes") is not None:
        _require_names(own.classes)


def _require_names(classes: Any) -> None:
    """Check that the classes are a list of names, each of them once."""
    is_list = isinstance(classes, list | tuple) and len(classes) > 0
    if not is_list or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            "own_data.classes must list the names of one class or more, such as ['bolt', 'nut'], "
            f"got {classes!r}"
        )
    if repeated := _repeated(classes):
        raise ValueError(
            f"own_data.classes has {_listed(repeated)} more than once: list each class once"
        )


def _repeated(names: Sequence[Any]) -> list[Any]:
    return [name for name, count in Counter(names).items() if count > 1]


def _expand_home(own: Any) -> None:
    """Expand ``~`` in the paths, in place."""
    own.root = os.path.expanduser(own.root)
    for part in PARTS:
        own[part].update({key: os.path.expanduser(own[part][key]) for key in FILES})


def _require_files(own: Any, faults: list[str] | None) -> None:
    """Check that all files and folders exist."""
    if not Path(own.root).exists():
        # nothing can be inspected
        faults = None
    # an inspection says of annotations that they are missing
    keys = FILES if faults is None else ("images",)
    absent = [own[part][key] for part in PARTS for key in keys if not _at(own, part, key).exists()]
    if absent:
        _refuse(
            f"own_data: there is no {' and no '.join(absent)} in {Path(own.root).absolute()}: "
            "correct own_data.root, or the entries of train and val. The config in the work dir "
            "of a training is complete and needs no data to predict",
            faults,
        )


def _at(own: Any, part: str, key: str) -> Path:
    return Path(own.root, own[part][key])


def _classes_of_coco(own: dict, faults: list[str] | None) -> dict[str, tuple[str, ...]]:
    """Return the names of the categories by set, in the order of the annotation files.

    mmdet numbers classes in this order, whatever that of `classes` in a config.
    """
    if own.get("reduce_zero_label") is not None:
        raise ValueError(
            "own_data.reduce_zero_label is for label maps, and has no effect on annotations in "
            "COCO's format: leave it out"
        )
    classes = {}
    for part in PARTS:
        file = _at(own, part, "annotations")
        try:
            names = _categories(file)
        except ValueError:
            if faults is None:
                raise
            # an inspection reads the file as well, and says what is wrong with it
            continue
        classes[part] = _chosen(names, own.get("classes"), file, faults)
    if len(classes) == len(PARTS) and classes["train"] != classes["val"]:
        _refuse(
            "own_data: the annotation files have different categories, or the same in another "
            f"order: {_listed(classes['train'])} to train on and {_listed(classes['val'])} to "
            "validate on; write the same list of categories into both",
            faults,
        )
    # of a file that cannot be read, those of the other one
    known = next(iter(classes.values()), ())
    return {part: classes.get(part, known) for part in PARTS}


def _categories(path: Path) -> list[str]:
    """Read the names of the categories of a COCO file."""
    try:
        names = [category["name"] for category in json.loads(path.read_bytes())["categories"]]
        if others := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"{others[0]!r} is no name")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"own_data: cannot read the categories of {path} ({type(error).__name__}: {error}); "
            "expected a file in COCO's format"
        ) from error
    return names


def _chosen(
    names: list[str], chosen: Sequence[str] | None, path: Path, faults: list[str] | None
) -> tuple[str, ...]:
    """Return the chosen ones of the categories of a COCO file, by default all of them."""
    if (repeated := _repeated(names)) or not names:
        _refuse(
            f"own_data: {path} has {'several categories ' if repeated else 'no categories'}"
            f"{_listed(repeated)}: expected each name once",
            faults,
        )
    if unknown := [name for name in chosen or () if name not in names]:
        _refuse(f"own_data.classes: {path} has no {_listed(unknown)}, but {_listed(names)}", faults)
    return tuple(name for name in dict.fromkeys(names) if chosen is None or name in chosen)


def _listed_classes(own: dict) -> tuple[str, ...]:
    """Return the names of the labels of the label maps."""
    classes, reduces = own.get("classes"), own.get("reduce_zero_label")
    if classes is None:
        raise ValueError(
            "own_data.classes must list the names of the labels of the label maps, from label 0 "
            "on (from 1 with reduce_zero_label=True), got None"
        )
    if reduces not in (None, True, False):
        raise ValueError(f"own_data.reduce_zero_label must be True or False, got {reduces!r}")
    # labels of 8 bits up to the ignored one, without 0 if that is ignored as well
    most = IGNORED - bool(reduces)
    if len(classes) > most:
        raise ValueError(
            f"own_data.classes has {len(classes)} names, but label maps of 8 bits have at most "
            f"{most}, as they ignore {'labels 0 and' if reduces else 'label'} {IGNORED}: merge "
            "classes"
        )
    return tuple(classes)


def _use_coco(cfg: Config, own: Any, classes: dict[str, tuple[str, ...]]) -> None:
    """Set the files and classes of data sets and metrics in COCO's format."""
    for part, names in PARTS.items():
        for name in names:
            cfg[f"{name}_dataloader"].dataset.update(
                data_root=str(own.root),
                ann_file=own[part].annotations,
                data_prefix=dict(img=own[part].images),
                metainfo=dict(classes=classes[part]),
            )
    for metric in dicts([cfg.val_evaluator, cfg.test_evaluator]):
        if "ann_file" in metric:
            metric.ann_file = str(_at(own, "val", "annotations"))


def _use_label_maps(
    cfg: Config, own: Any, classes: tuple[str, ...], faults: list[str] | None
) -> None:
    """Set the folders and classes of data sets of label maps."""
    for part, names in PARTS.items():
        endings = dict(
            img_suffix=_ending(_at(own, part, "images"), faults),
            seg_map_suffix=_ending(_at(own, part, "annotations"), faults),
        )
        for name in names:
            dataset = cfg[f"{name}_dataloader"].dataset
            dataset.update({key: x for key, x in endings.items() if x and key not in dataset})
            dataset.update(
                type="CheckedSegDataset",
                data_root=str(own.root),
                data_prefix=dict(img_path=own[part].images, seg_map_path=own[part].annotations),
                reduce_zero_label=bool(own.get("reduce_zero_label", False)),
                metainfo=dict(classes=classes),
            )


def _ending(folder: Path, faults: list[str] | None) -> str | None:
    """Return the ending of most images in a folder, and its subfolders."""
    counts = Counter(
        path.suffix for path in folder.rglob("*") if path.suffix.lower() in ENDINGS
    ).most_common()
    # an inspection says that a folder has no images, or that images have no label map
    if len(counts) > 1 or (not counts and faults is None):
        found = ", ".join(f"{count} of {ending}" for ending, count in counts) or "none"
        _refuse(
            f"own_data: expected images of one ending in {folder}, such as .jpg or .png, found "
            f"{found}: convert the others, or move them elsewhere",
            faults,
        )
    return counts[0][0] if counts else None


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" * (len(names) > 5))

"""Data of one's own: the key `own_data` of a config becomes its data sets, metrics and head sizes.

A detector takes images and a file in COCO's format, whose categories are the classes; a segmentor
takes a folder of images, one of label maps, and a list of classes; a classifier takes a folder with
one of images for each class:

    own_data = dict(
        root="/data/screws",
        train=dict(images="train", annotations="train.json"),
        val=dict(images="val", annotations="val.json"),
    )
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from mmengine.config import Config, ConfigDict

from ..mini.settings import dicts, set_num_classes
from ..suggestions import did_you_mean
from .own_classes import (
    classes_of_coco,
    classes_of_folders,
    classes_of_labels,
    refuse,
    require_names,
)

# entries of `own_data`, each with the dataloaders that it is for
PARTS = dict(train=("train",), val=("val", "test"))
# settings of the data sets by the entry that they take, those of dataloaders that are None left out
Sets: TypeAlias = dict[str, list[ConfigDict]]
KEYS = ("root", "classes", "reduce_zero_label", *PARTS)
# what is in a set, by the kind of data set that a config has
COCO, MAPS, FOLDERS = "annotations in COCO's format", "label maps", "images in a folder by class"
KINDS = {
    "CheckedCocoDataset": COCO,
    "CheckedSegDataset": MAPS,
    "CheckedADE20KDataset": MAPS,
    "ImageNet": FOLDERS,
    "CustomDataset": FOLDERS,
}
# what Pillow reads, as the endings of images and label maps in folders
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


def apply_own_data(cfg: Config, faults: list[str] | None = None) -> None:
    """Replace the data of a config by its `own_data`, in place, and remove this key.

    The classes, and all that follows from their number, come from one place: the annotation file,
    the list `own_data.classes`, or the names of the folders.

    Args:
        cfg: config of a detector, segmentor or classifier; without `own_data` it stays as it is.
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
    sets = _sets(cfg)
    dataset = sets["train"][0]
    kind = KINDS.get(dataset.type)
    if kind is None:
        raise ValueError(
            "own_data is for the configs of detectors, segmentors and classifiers, but this one "
            f"reads {dataset.type}: set train_dataloader.dataset instead"
        )
    files = ("images",) if kind == FOLDERS else ("images", "annotations")
    _require_entries(own, sets, kind, files)
    _expand_home(own, sets, files)
    _require_files(own, sets, files, faults)
    if kind == COCO:
        annotations = {part: _at(own, part, "annotations") for part in sets}
        classes = classes_of_coco(annotations, own.get("classes"), faults)
        _use_coco(cfg, own, sets, classes)
    elif kind == MAPS:
        labels = classes_of_labels(own.get("classes"), reduces=own.get("reduce_zero_label"))
        classes = dict.fromkeys(sets, labels)
        _use_label_maps(own, sets, labels, faults)
    else:
        classes = classes_of_folders({part: _at(own, part, "images") for part in sets}, faults)
        _use_folders(cfg, own, sets, classes)
    set_num_classes(cfg.model, len(classes["train"]))
    cfg.pop("own_data")


def _sets(cfg: Config) -> Sets:
    """Return the data sets of a config by the entry of `own_data` that they take."""
    sets: Sets = {}
    for part, names in PARTS.items():
        loaders = [cfg.get(f"{name}_dataloader") for name in names]
        if datasets := [loader.dataset for loader in loaders if loader is not None]:
            sets[part] = datasets
    if "train" not in sets:
        raise ValueError(
            "own_data needs a config that sets train_dataloader: inherit one of configs/"
        )
    return sets


def _require_entries(own: Any, sets: Sets, kind: str, files: tuple[str, ...]) -> None:
    """Check that `own_data` has all entries of its kind, of the right types, and no others."""
    parts = [own.get(part) for part in sets] if isinstance(own, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"own_data needs root, and {' and '.join(sets)}, {'each ' * (len(sets) > 1)}a dict of "
            f"{' and '.join(files)}"
        )
    for settings, known in ((own, KEYS), *((part, files) for part in parts)):
        for key in settings:
            if key not in known:
                raise ValueError(f"own_data has no {key!r}{did_you_mean(key, known)}")
    paths = {"root": own.get("root")}
    paths |= {f"{part}.{key}": own[part].get(key) for part in sets for key in files}
    if missing := [name for name, path in paths.items() if path is None]:
        raise ValueError(f"own_data does not set {', '.join(missing)}")
    for name, path in paths.items():
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"own_data.{name} must be a path, as text, got {path!r}")
    if own.get("classes") is not None:
        if kind == FOLDERS:
            raise ValueError(
                "own_data.classes: the classes of a classifier are the names of the folders in "
                "train and val: leave it out"
            )
        require_names(own.classes)
    if own.get("reduce_zero_label") is not None and kind != MAPS:
        raise ValueError(
            f"own_data.reduce_zero_label is for label maps, and has no effect on {kind}: leave it "
            "out"
        )


def _expand_home(own: Any, sets: Sets, files: tuple[str, ...]) -> None:
    """Expand ``~`` in the paths, in place."""
    own.root = os.path.expanduser(own.root)
    for part in sets:
        own[part].update({key: os.path.expanduser(own[part][key]) for key in files})


def _require_files(own: Any, sets: Sets, files: tuple[str, ...], faults: list[str] | None) -> None:
    """Check that all files and folders exist."""
    complete = "The config in the work dir of a training is complete and needs no data to predict"
    if not Path(own.root).exists():
        # nothing can be inspected either
        raise ValueError(
            f"own_data.root is {Path(own.root).absolute()}, which does not exist: set it to the "
            f"folder of your data. {complete}"
        )
    # an inspection says of annotations that they are missing
    keys = files if faults is None else ("images",)
    absent = [own[part][key] for part in sets for key in keys if not _at(own, part, key).exists()]
    if absent:
        refuse(
            f"own_data: there is no {' and no '.join(absent)} in {Path(own.root).absolute()}: "
            f"correct own_data.root, or the entries of train and val. {complete}",
            faults,
        )


def _at(own: Any, part: str, key: str) -> Path:
    return Path(own.root, own[part][key])


def _use_coco(cfg: Config, own: Any, sets: Sets, classes: dict[str, tuple[str, ...]]) -> None:
    """Set the files and classes of data sets and metrics in COCO's format."""
    for part, datasets in sets.items():
        for dataset in datasets:
            dataset.update(
                data_root=str(own.root),
                ann_file=own[part].annotations,
                data_prefix=dict(img=own[part].images),
                metainfo=dict(classes=classes[part]),
            )
    for metric in _metrics(cfg):
        if "ann_file" in metric and "val" in sets:
            metric.ann_file = str(_at(own, "val", "annotations"))


def _use_label_maps(
    own: Any, sets: Sets, classes: tuple[str, ...], faults: list[str] | None
) -> None:
    """Set the folders and classes of data sets of label maps."""
    for part, datasets in sets.items():
        for key, files in (("img_suffix", "images"), ("seg_map_suffix", "annotations")):
            # an ending of the config's own is kept
            open_sets = [dataset for dataset in datasets if key not in dataset]
            if open_sets and (ending := _ending(_at(own, part, files), key, faults)):
                for dataset in open_sets:
                    dataset[key] = ending
        for dataset in datasets:
            dataset.update(
                type="CheckedSegDataset",
                data_root=str(own.root),
                data_prefix=dict(img_path=own[part].images, seg_map_path=own[part].annotations),
                reduce_zero_label=bool(own.get("reduce_zero_label", False)),
                metainfo=dict(classes=classes),
            )


def _ending(folder: Path, key: str, faults: list[str] | None) -> str | None:
    """Return the ending of most images in a folder, and its subfolders, for a key of data sets."""
    counts = Counter(
        path.suffix for path in folder.rglob("*") if path.suffix.lower() in ENDINGS
    ).most_common()
    # an inspection says that a folder has no images, or that images have no label map
    if len(counts) > 1 or (not counts and faults is None):
        found = ", ".join(f"{count} of {ending}" for ending, count in counts) or "none"
        refuse(
            f"own_data: expected images of one ending in {folder}, such as .jpg or .png, found "
            f"{found}: convert the others, move them elsewhere, or set {key} of the data sets",
            faults,
        )
    return counts[0][0] if counts else None


def _use_folders(cfg: Config, own: Any, sets: Sets, classes: dict[str, tuple[str, ...]]) -> None:
    """Set the folders and classes of data sets of images by class."""
    for part, datasets in sets.items():
        for dataset in datasets:
            dataset.pop("split", None)
            dataset.update(
                type="CustomDataset",
                data_root=str(own.root),
                data_prefix=own[part].images,
                # by default some of them are left out
                extensions=ENDINGS,
                metainfo=dict(classes=classes[part]),
            )
    num_classes = len(classes["train"])
    set_num_classes(cfg.data_preprocessor, num_classes)
    for settings in (*dicts(cfg.model), *_metrics(cfg)):
        if "topk" in settings:
            topk = [settings.topk] if isinstance(settings.topk, int) else settings.topk
            # among the first five of five, every class is found
            settings.topk = tuple(k for k in topk if k == 1 or k < num_classes) or (1,)


def _metrics(cfg: Config) -> Iterator[ConfigDict]:
    """Iterate over the settings of all metrics."""
    return dicts([cfg.get("val_evaluator"), cfg.get("test_evaluator")])

"""Classes of data of one's own: those of annotation files, of a list, or of folders.

What is wrong with files is an error, or goes into a list of faults where all of them are collected.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets.coco_checks import read_as_pycocotools
from ..datasets.pictures import IGNORED


def refuse(fault: str, faults: list[str] | None) -> None:
    """Raise a ValueError, or add it to the faults where they are collected."""
    if faults is None:
        raise ValueError(fault)
    faults.append(fault)


def require_names(classes: Any) -> None:
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


def classes_of_coco(
    files: Mapping[str, Path], chosen: Sequence[str] | None, faults: list[str] | None
) -> dict[str, tuple[str, ...]]:
    """Return the names of the categories by set, in the order of the annotation files.

    mmdet numbers classes in this order, whatever that of `classes` in a config.

    Args:
        files: annotation file of each set, that to train on first.
        chosen: the classes to take, by default all of them.
        faults: list that gets the faults of files.
    """
    classes = {}
    for part, file in files.items():
        try:
            names = _categories(file)
        except ValueError:
            if faults is None:
                raise
            # an inspection reads the file as well, and says what is wrong with it
            continue
        classes[part] = _chosen(names, chosen, file, faults)
    if len(classes) == len(files) and len(set(classes.values())) > 1:
        refuse(
            "own_data: the annotation files have different categories, or the same in another "
            f"order: {_listed(classes['train'])} to train on and {_listed(classes['val'])} to "
            "validate on; write the same list of categories into both",
            faults,
        )
    # of a file that cannot be read, those of the other one
    known = next(iter(classes.values()), ())
    return {part: classes.get(part, known) for part in files}


def _categories(path: Path) -> list[str]:
    """Read the names of the categories of a COCO file."""
    try:
        names = [category["name"] for category in read_as_pycocotools(path)["categories"]]
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
        refuse(
            f"own_data: {path} has {'several categories ' if repeated else 'no categories'}"
            f"{_listed(repeated)}: expected each name once",
            faults,
        )
    if unknown := [name for name in chosen or () if name not in names]:
        refuse(f"own_data.classes: {path} has no {_listed(unknown)}, but {_listed(names)}", faults)
    return tuple(name for name in dict.fromkeys(names) if chosen is None or name in chosen)


def classes_of_labels(classes: Sequence[str] | None, *, reduces: Any) -> tuple[str, ...]:
    """Return the names of the labels of label maps.

    Args:
        classes: `own_data.classes`.
        reduces: `own_data.reduce_zero_label`, with which label 0 is ignored.
    """
    if classes is None:
        raise ValueError(
            "own_data.classes must list the names of the labels of the label maps, from label 0 "
            "on (from 1 with reduce_zero_label=True), got None"
        )
    if reduces not in (None, True, False):
        raise ValueError(f"own_data.reduce_zero_label must be True or False, got {reduces!r}")
    if len(classes) < 2:
        raise ValueError(
            f"own_data.classes has only {classes[0]!r}, but label maps need two classes or more: "
            "list the background as well"
        )
    # labels of 8 bits up to the ignored one, without 0 if that is ignored as well
    most = IGNORED - bool(reduces)
    if len(classes) > most:
        raise ValueError(
            f"own_data.classes has {len(classes)} names, but label maps of 8 bits have at most "
            f"{most}, as they ignore {'labels 0 and' if reduces else 'label'} {IGNORED}: merge "
            "classes"
        )
    return tuple(classes)


def classes_of_folders(
    folders: Mapping[str, Path], faults: list[str] | None
) -> dict[str, tuple[str, ...]]:
    """Return the names of the folders of images by class, in mmpretrain's order.

    Args:
        folders: folder of each set, that to train on first.
        faults: list that gets the faults of folders.
    """
    classes = {part: _subfolders(folder) for part, folder in folders.items()}
    train, *rest = classes.values()
    if others := sorted({*train}.union(*rest) - {*train}.intersection(*rest)):
        refuse(
            f"own_data: {' and '.join(map(str, folders.values()))} must have a folder for each "
            f"class, but only one of them has {_listed(others)}: make it in the other one, too, or "
            "remove it",
            faults,
        )
    elif len(train) < 2:
        refuse(
            "own_data: expected a folder of images for each of two classes or more in "
            f"{folders['train']}, found {_listed(train) or 'none'}",
            faults,
        )
    return classes


def _subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of what mmpretrain takes for classes."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" * (len(names) > 5))

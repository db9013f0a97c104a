"""Inspection of label maps: what the loading of a training refuses, and pixels by class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..pictures import IGNORED, decode
from ..segmentation import LABEL_MODES, class_of_label, labels_without_class, read_labels
from .images import UNOPENED, ImageReport, inspect_image

MISSING = "label maps missing"
UNREADABLE = "label maps truncated or not images"
NO_LABELS = "label maps of other than one channel of 8 bits"
RESIZED = "label maps of another size than their image"
ABOVE = "label maps with labels above the classes"
EMPTY = "label maps without a class"
ONE_CLASS = "sets of label maps with one class alone beside label 255, which is ignored"


class MapReport(NamedTuple):
    """Problems of a label map as (kind, example), its pixels by class index, and its labels."""

    problems: list[tuple[str, str]]
    num_pixels: np.ndarray
    labels: frozenset[int] = frozenset()


def inspect_pair(info: dict) -> tuple[ImageReport, MapReport]:
    """Decode an image and its label map and name everything that is wrong with them.

    Args:
        info: what a segmentation dataset says of an image.
    """
    image = inspect_image(Path(info["img_path"]))
    return image, inspect_label_map(info, image)


def inspect_label_map(info: dict, image: ImageReport) -> MapReport:
    """Decode a label map and name everything that is wrong with it.

    Args:
        info: what a segmentation dataset says of an image.
        image: report of the image, for its size.
    """
    path, nothing = Path(info["seg_map_path"]), np.zeros(info["num_classes"], int)
    try:
        content = path.read_bytes()
        picture = decode(content, path.name)
    except FileNotFoundError:
        return MapReport([(MISSING, str(path))], nothing)
    except OSError as error:
        return MapReport([(UNOPENED, f"{path} ({error.strerror})")], nothing)
    except ValueError:
        return MapReport([(UNREADABLE, str(path))], nothing)
    if picture.mode not in LABEL_MODES:
        return MapReport([(NO_LABELS, f"{path} ({picture.mode})")], nothing)
    problems = []
    if image.size not in (None, picture.size):
        problems.append((RESIZED, f"{path} ({'×'.join(map(str, picture.size))})"))
    labels = read_labels(content, picture)
    class_of = class_of_label(info)
    if unknown := labels_without_class(labels, class_of, info["num_classes"]):
        more = " ..." * (len(unknown) > 5)
        problems.append((ABOVE, f"{path} ({', '.join(map(str, unknown[:5]))}{more})"))
    classes = class_of[labels]
    if (classes == IGNORED).all():
        problems.append((EMPTY, str(path)))
    num_pixels = np.bincount(classes.ravel(), minlength=256)[: info["num_classes"]]
    return MapReport(problems, num_pixels, frozenset(np.unique(labels).tolist()))

"""Table of checks for faulty boxes and masks in COCO's format."""

import json
import math
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools.mask import area, frPyObjects

# what happens to an annotation with a fault: the dataset marks it to be ignored; mmdet's resizing
# clips its box; the dataset skips its short polygons; the dataset raises an error
LEFT_OUT = "left out"
CLIPPED = "clipped to the image when it is resized"
DROPPED = "such polygons are left out, and objects without others ignored"
REFUSED = "refused"
# a metric reads the file itself, with all its boxes
MEASURED = "measured as they are"
# a mask without area is a target of background alone
EMPTY = "used as empty masks"


def read_as_pycocotools(path: Path) -> Any:
    """Read an annotation file in the encoding of pycocotools; json detects others from bytes.

    Raises:
        OSError, ValueError, RecursionError: if the file is missing or is not JSON.
    """
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{error}: save it as UTF-8") from error
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark: save it as UTF-8 without one")
    return json.loads(text)


def are_numbers(values: list) -> bool:
    """Return whether all values are numbers that a float can hold."""
    try:
        array("d", values)
    except (TypeError, OverflowError):
        return False
    return True


class Annotations(NamedTuple):
    """Columns of N annotations, in pixels.

    `x` and `y` are the upper left corner of the boxes, `width` and `height` the size of the images,
    `masks` the values of `segmentation`.
    """

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    h: np.ndarray
    area: np.ndarray
    width: np.ndarray
    height: np.ndarray
    masks: list


class Check(NamedTuple):
    """A fault, its test (True ``(N,)`` where it is found), its remedy and the faulty field."""

    fault: str
    test: Callable[[Annotations], np.ndarray]
    remedy: str
    field: str = "bbox"


class Finding(NamedTuple):
    """A check and the annotations that have its fault."""

    check: Check
    annotations: list[dict]


def _each(test: Callable[[Any, int, int], bool]) -> Callable[[Annotations], np.ndarray]:
    """Turn a test of one mask and its image's height and width into a test of all masks."""

    def test_all(a: Annotations) -> np.ndarray:
        rows = zip(a.masks, a.height.tolist(), a.width.tolist(), strict=True)
        return np.fromiter((test(*row) for row in rows), bool, len(a.masks))

    return test_all


def _is_unknown(mask: object, height: int, width: int) -> bool:
    if isinstance(mask, list):
        return not all(isinstance(polygon, list) for polygon in mask)
    return not (
        isinstance(mask, dict)
        and isinstance(mask.get("size"), list)
        and isinstance(mask.get("counts"), (list, str))
    )


def _is_far(mask: list | dict, height: int, width: int) -> bool:
    """Return whether polygon coordinates are no numbers or lie far outside the image.

    Far is a root mean square of more than twice the longer side, which no polygon near the image
    has.
    """
    far = 2 * max(height, width)
    try:
        # tests the root mean square in one fast call: a dataset has about ten million coordinates
        return isinstance(mask, list) and not all(
            math.hypot(*polygon) <= far * math.sqrt(len(polygon)) for polygon in mask
        )
    except (TypeError, OverflowError):
        return True


def _is_short(mask: list | dict, height: int, width: int) -> bool:
    return isinstance(mask, list) and any(len(p) < 6 or len(p) % 2 for p in mask)


def _is_of_other_size(mask: list | dict, height: int, width: int) -> bool:
    return isinstance(mask, dict) and mask["size"] != [height, width]


def _does_not_add_up(mask: list | dict, height: int, width: int) -> bool:
    if isinstance(mask, list):
        return False
    runs = mask["counts"] if isinstance(mask["counts"], list) else _decompress(mask["counts"])
    try:
        return sum(runs) != height * width or min(runs) < 0
    except TypeError:
        return True


def _has_no_area(mask: list | dict, height: int, width: int) -> bool:
    """Return whether no pixel lies in a mask, which has no short polygons: another fault."""
    if isinstance(mask, dict):
        runs = mask["counts"] if isinstance(mask["counts"], list) else _decompress(mask["counts"])
        return sum(runs[1::2]) == 0
    if _is_short(mask, height, width):
        return False
    return not area(frPyObjects(mask, int(height), int(width))).any()


def _decompress(counts: str) -> list[int]:
    """Decode COCO's compressed run lengths, which pycocotools does not check."""
    runs: list[int] = []
    run = shift = 0
    for code in counts.encode():
        bits = code - 48
        run |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            run -= bool(bits & 16) << shift
            # from the fourth run on, the code is the difference to the run before the last
            runs.append(run + (runs[-2] if len(runs) > 2 else 0))
            run = shift = 0
    return runs


# mmdet also skips boxes without area in the image and short polygons, but without a message
BOX_CHECKS = [
    Check("a box that is not finite", lambda a: ~np.isfinite(a.x + a.y + a.w + a.h), LEFT_OUT),
    Check("a box of negative size", lambda a: (a.w < 0) | (a.h < 0), LEFT_OUT),
    Check("a box under a pixel", lambda a: (a.w < 1) | (a.h < 1), LEFT_OUT),
    Check("an area that is not positive", lambda a: a.area <= 0, LEFT_OUT, "area"),
    Check(
        "a box outside the image",
        lambda a: (a.x + a.w <= 0) | (a.y + a.h <= 0) | (a.x >= a.width) | (a.y >= a.height),
        LEFT_OUT,
    ),
    Check(
        "a box more than a pixel over the border",
        lambda a: (
            (np.minimum(a.x, a.y) < -1) | (a.x + a.w > a.width + 1) | (a.y + a.h > a.height + 1)
        ),
        CLIPPED,
    ),
]
MASK_CHECKS = [
    Check(fault, _each(test), remedy, "segmentation")
    for fault, test, remedy in (
        ("no segmentation", lambda mask, *_: not mask, REFUSED),
        ("neither polygons nor run lengths", _is_unknown, LEFT_OUT),
        ("polygons with coordinates that are no numbers near the image", _is_far, LEFT_OUT),
        ("polygons of too few or an odd number of coordinates", _is_short, DROPPED),
        ("run lengths of another image size", _is_of_other_size, LEFT_OUT),
        ("run lengths that do not add up to the image", _does_not_add_up, LEFT_OUT),
    )
]

# for tools/check_data.py alone: mmdet trains on such masks
AREA_CHECK = Check("a mask without area", _each(_has_no_area), EMPTY, "segmentation")


def consequence(check: Check, *, evaluates: bool) -> str:
    """Return what happens to annotations with a fault.

    Args:
        check: check that found the fault.
        evaluates: whether a metric reads the file, which fails on faulty masks.
    """
    if not evaluates:
        return check.remedy
    fails = check.field == "segmentation" and check.remedy != EMPTY
    return REFUSED if fails else MEASURED


def find_faults(
    annotations: Sequence[dict], images: dict[int | str, dict], checks: Sequence[Check]
) -> list[Finding]:
    """Apply checks in turn, and return one finding for each fault that occurs.

    An annotation that a check leaves out or refuses is not tested further.

    Args:
        annotations: annotations in COCO's format.
        images: images in COCO's format by id, with `width` and `height` in pixels.
        checks: checks, for example `BOX_CHECKS`.
    """
    place = {image: i for i, image in enumerate(images)}
    sizes = np.array([[image["width"], image["height"]] for image in images.values()], float)
    boxes = np.fromiter(chain.from_iterable(one["bbox"] for one in annotations), float)
    areas = np.fromiter((one["area"] for one in annotations), float)
    of_image = np.fromiter((place[one["image_id"]] for one in annotations), int)
    masks = [one.get("segmentation") for one in annotations]
    columns = [*boxes.reshape(-1, 4).T, areas, *sizes.reshape(-1, 2)[of_image].T]
    rest, findings = np.arange(len(annotations)), []
    for check in checks:
        hit = check.test(
            Annotations._make([*(x[rest] for x in columns), [masks[i] for i in rest.tolist()]])
        )
        if hit.any():
            findings.append(Finding(check, [annotations[i] for i in rest[hit].tolist()]))
        if check.remedy in (LEFT_OUT, REFUSED):
            rest = rest[~hit]
    return findings

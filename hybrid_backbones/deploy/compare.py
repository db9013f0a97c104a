"""Exported files beside PyTorch: run by their runtime, on the same images."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .runtime import MASK_THRESHOLD, first_line, open_file

# name of a file's first input
INPUT = "images"
# end of the names of outputs that are boxes, in pixels
BOXES = "boxes"
# detections of less overlap are not the same
MIN_OVERLAP = 0.5

Outputs = tuple[Tensor, ...]
Runner = Callable[[tuple[Tensor, ...]], list[np.ndarray]]


class Bounds(NamedTuple):
    """Largest errors of a file that is kept."""

    # of an output, relative to its largest value
    numbers: float
    # share of the labels of a map that differ
    labels: float
    # share of the detections that one side lacks: rounding decides at thresholds of scores and NMS
    detections: float
    # whether pixels of masks are labels, inside or not: in 8 bits the largest error of a
    # probability is that of a pixel at the outline, where it says little
    masks_are_labels: bool = False


BOUNDS = dict(
    float32=Bounds(numbers=1e-4, labels=1e-4, detections=1e-2),
    float16=Bounds(numbers=2e-2, labels=2e-2, detections=5e-2),
    int8=Bounds(numbers=0.2, labels=0.1, detections=0.25, masks_are_labels=True),
    # of images that the file resizes, whose pixels differ by one of 255 levels from the framework's
    resized=Bounds(numbers=2e-2, labels=5e-2, detections=5e-2),
)
# largest share of an accuracy that may be lost
MAX_LOSS = 0.1


def wider(one: Bounds, other: Bounds) -> Bounds:
    """Return the larger bound of each kind."""
    return Bounds(
        max(one.numbers, other.numbers),
        max(one.labels, other.labels),
        max(one.detections, other.detections),
        one.masks_are_labels or other.masks_are_labels,
    )


def load_file(path: Path) -> Runner:
    """Return the function that runs a written file by its runtime."""
    run, _ = open_file(path, num_threads=torch.get_num_threads())
    return lambda inputs: run(*(x.numpy() for x in inputs))


def compare(
    run: Runner,
    batches: list[tuple[Tensor, ...]],
    references: list[Outputs],
    names: list[str],
    bounds: Bounds = BOUNDS["float32"],
) -> dict[str, tuple[float, float]]:
    """Return the largest error of each output and its bound.

    Errors are relative for numbers, and of labels the share that is wrong, in 8 bits also of the
    pixels of masks.

    Of detections, which :func:`pair` pairs, also the share that one side lacks, ``unpaired``.

    Args:
        run: function from the inputs of a file to its outputs.
        batches: inputs of several calls.
        references: expected outputs of each call.
        names: names of the outputs.
        bounds: largest errors.

    Raises:
        ValueError: if the file does not run, or an output differs by more than its bound.
    """
    errors: dict[str, tuple[float, float]] = {}
    for inputs, reference in zip(batches, references, strict=True):
        shape = "x".join(map(str, inputs[0].shape))
        try:
            outputs = run(inputs)
        except Exception as error:  # onnxruntime's errors have no common class
            raise ValueError(
                f"the exported file does not run on images {shape}: {first_line(error)}; nothing "
                "was written"
            ) from error
        ours = dict(zip(names, outputs, strict=True))
        theirs = dict(zip(names, (x.numpy() for x in reference), strict=True))
        for name, (difference, bound) in differences(ours, theirs, bounds).items():
            # this form also rejects NaN
            if not difference <= bound:
                raise ValueError(
                    f"the exported file differs from PyTorch: {name} by {difference:.1e} on images "
                    f"{shape}, where {bound:.0e} is allowed; nothing was written"
                )
            errors[name] = max(errors.get(name, (0.0, bound)), (difference, bound))
    return errors


def require_accuracy(accuracy: dict[str, dict[str, float]]) -> None:
    """Check that a file is nearly as accurate as its model.

    Args:
        accuracy: values ``before`` and ``after`` of each measure.

    Raises:
        ValueError: if it loses more than `MAX_LOSS` of a value.
    """
    for name, values in accuracy.items():
        if not values["after"] >= (1 - MAX_LOSS) * values["before"]:
            raise ValueError(
                f"the exported file loses accuracy: {name} falls from {values['before']:.4g} to "
                f"{values['after']:.4g}, where {MAX_LOSS:.0%} may be lost; nothing was written"
            )


def differences(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], bounds: Bounds
) -> dict[str, tuple[float, float]]:
    """Return the error and the bound of each output."""
    found = {}
    if {"boxes", "scores"} <= ours.keys():
        ours, theirs, unpaired = pair(ours, theirs)
        found["unpaired"] = unpaired, bounds.detections
        if bounds.masks_are_labels and "masks" in ours:
            ours, theirs = (dict(x, masks=x["masks"] >= MASK_THRESHOLD) for x in (ours, theirs))
    for name in ours:
        is_number = np.issubdtype(theirs[name].dtype, np.floating)
        bound = bounds.numbers if is_number else bounds.labels
        found[name] = relative_error(ours[name], theirs[name]), bound
    return found


def pair(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Pair the detections of two files: each of theirs with the best overlap of the same label.

    Returns:
        outputs of the pairs on both sides, and the share of all detections that have no pair.
    """
    free = np.ones(len(ours["boxes"]), dtype=bool)
    pairs = []
    for i, box in enumerate(theirs["boxes"]):
        overlaps = np.where(free, overlap(ours["boxes"], box), -1.0)
        if "labels" in ours:
            overlaps[ours["labels"] != theirs["labels"][i]] = -1.0
        if free.any() and overlaps.max() >= MIN_OVERLAP:
            pairs.append((int(overlaps.argmax()), i))
            free[pairs[-1][0]] = False
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    most = max(len(ours["boxes"]), len(theirs["boxes"]))
    return (
        {name: values[first] for name, values in ours.items()},
        {name: values[second] for name, values in theirs.items()},
        (most - len(pairs)) / most if most else 0.0,
    )


def overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (N, 4) with one box (4,), x1 y1 x2 y2."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = sides.clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / np.maximum(areas - shared, 1e-12)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest error relative to the largest value, or the share of different labels."""
    if ours.shape != theirs.shape or not theirs.size:
        return float("inf") if ours.shape != theirs.shape else 0.0
    if not np.issubdtype(theirs.dtype, np.floating):
        return float((ours != theirs).mean())
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))

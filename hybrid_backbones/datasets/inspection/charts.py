"""Picture of a data set: how often each class occurs, and how large its objects are."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .findings import Findings
from .lettering import plain

# number of classes that have room in the picture
MAX_CLASSES = 100
COLORS = ("tab:blue", "tab:orange")
# sides of the squares that separate COCO's small, medium and large objects, in pixels
SIDES = (32, 96)


def draw_overview(sets: Mapping[str, Findings], out: Path) -> None:
    """Draw how often the classes occur, and how large boxes are, for all sets in one picture.

    Args:
        sets: findings by the name of the set; the first one has the classes, at least one.
        out: picture file.
    """
    has_boxes = any(len(one.boxes) for one in sets.values())
    classes = _chosen_classes(sets)
    width, height = (13 if has_boxes else 7.5), max(4.5, 1.8 + 0.24 * len(classes))
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, 1 + has_boxes, squeeze=False)[0]
    _draw_classes(panels[0], sets, classes)
    if has_boxes:
        _draw_boxes(panels[1], sets)
    handles = [
        Rectangle((0, 0), 1, 1, color=COLORS[i % len(COLORS)], label=f"{name}: {_summary(one)}")
        for i, (name, one) in enumerate(sets.items())
    ]
    figure.legend(handles=handles, fontsize=9, loc="outside lower center", ncols=len(handles))
    figure.savefig(out, dpi=110)


def _counts(one: Findings) -> tuple[Counter[str], str]:
    """Return the counts of the classes that are drawn, and what is counted."""
    if one.num_objects:
        return one.num_objects, "objects"
    if one.num_pixels:
        return one.num_pixels, "pixels"
    return one.num_images, "images"


def _summary(one: Findings) -> str:
    """Return the number of objects, pixels or images, and the shares of COCO's sizes of boxes."""
    counts, unit = _counts(one)
    text = f"{counts.total():,} {unit}"
    if not len(one.boxes):
        return text
    sides, limits = np.sqrt(one.boxes.prod(1)), pairwise((0, *SIDES, np.inf))
    shares = [np.mean((low <= sides) & (sides < high)) for low, high in limits]
    names = ("small", "medium", "large")
    return f"{text}, " + ", ".join(f"{x:.0%} {y}" for x, y in zip(shares, names, strict=True))


def _chosen_classes(sets: Mapping[str, Findings]) -> list[str]:
    """Return the rarest classes of the first set, the most frequent of them first."""
    first = next(iter(sets.values()))
    counts, _ = _counts(first)
    return sorted(first.classes, key=lambda name: -counts[name])[-MAX_CLASSES:]


def _draw_classes(axes: Axes, sets: Mapping[str, Findings], classes: list[str]) -> None:
    """Draw the share of each class, one bar for each set."""
    thickness, places = 0.8 / len(sets), np.arange(len(classes))
    for i, one in enumerate(sets.values()):
        counts, _ = _counts(one)
        shares = [100 * counts[label] / max(counts.total(), 1) for label in classes]
        offset = (i - (len(sets) - 1) / 2) * thickness
        axes.barh(places + offset, shares, thickness, color=COLORS[i % len(COLORS)])
    axes.set_yticks(places, [plain(label[:28]) for label in classes], fontsize=8)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xscale("log")
    # a class that does not occur has no bar
    axes.set_xlim(10 ** np.floor(np.log10(min(axes.get_xlim()[0] * 1.05, 50))), 100)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.grid(axis="x", alpha=0.3)
    num_classes = len(next(iter(sets.values())).classes)
    rarest = f", the rarest {len(classes)} of {num_classes}" * (len(classes) < num_classes)
    axes.set_title(f"Share of each class{rarest}", fontsize=11)


def _draw_boxes(axes: Axes, sets: Mapping[str, Findings]) -> None:
    """Draw widths and heights of the boxes in pixels, with the limits of COCO's three sizes."""
    for i, one in enumerate(sets.values()):
        alpha = min(1, 30 / max(len(one.boxes), 1) ** 0.5)
        color = COLORS[i % len(COLORS)]
        axes.scatter(one.boxes[:, 0], one.boxes[:, 1], s=9, alpha=alpha, linewidths=0, color=color)
    sides = np.concatenate([one.boxes.ravel() for one in sets.values()])
    limits = 10 ** np.floor(np.log10(sides.min())), 10 ** np.ceil(np.log10(sides.max() + 1))
    widths = np.geomspace(*limits, 100)
    for side in SIDES:
        axes.plot(widths, side**2 / widths, color="gray", lw=1, ls="--")
    axes.set(xscale="log", yscale="log", xlabel="width (pixels)", ylabel="height (pixels)")
    axes.set(xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.set_title("Size of each box; dashed: small, medium and large as in COCO", fontsize=11)

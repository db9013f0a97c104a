"""Sheet of training samples after augmentation, with what is annotated in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..pictures import IGNORED
from .lettering import plain

COLUMNS = 4
COLORS = np.array(color_sequences["tab10"])


def draw_sheet(samples: Sequence[dict], classes: Sequence[str], out: Path) -> None:
    """Draw training samples with boxes, masks, label maps or classes.

    Args:
        samples: what the training pipeline of a host returns, with ``inputs`` (3, H, W) in BGR.
        classes: names of the classes.
        out: picture file.
    """
    classes = [plain(name) for name in classes]
    rows = -(-len(samples) // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 3.0 * rows + 0.5), layout="constrained")
    figure.suptitle("Samples of the training set after augmentation", fontsize=12)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, sample in zip(panels[: len(samples)], samples, strict=True):
        image = sample["inputs"].numpy()[::-1].transpose(1, 2, 0)
        axes.imshow(image.clip(0, 255).astype(np.uint8))
        _draw_annotations(axes, sample["data_samples"], classes)
    figure.savefig(out, dpi=110)


def _draw_annotations(axes: Axes, sample: Any, classes: Sequence[str]) -> None:
    if "gt_instances" in sample:
        _draw_instances(axes, sample.gt_instances, classes)
    elif "gt_sem_seg" in sample:
        _draw_labels(axes, sample.gt_sem_seg.data.squeeze(0).numpy(), classes)
    elif "gt_label" in sample:
        names = [classes[i] for i in sample.gt_label.tolist()]
        axes.set_title(", ".join(names), fontsize=8)


def _draw_instances(axes: Axes, instances: Any, classes: Sequence[str]) -> None:
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes).numpy()
    for i, (box, label) in enumerate(zip(boxes, instances.labels.tolist(), strict=True)):
        color = COLORS[label % len(COLORS)]
        if "masks" in instances:
            _fill(axes, instances.masks.to_ndarray()[i].astype(bool), color)
        x, y, right, bottom = box
        axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, ec=color, lw=1.2))
        axes.text(
            *(x, y),
            classes[label],
            fontsize=6,
            color="white",
            va="top",
            clip_on=True,
            bbox=dict(facecolor=color, edgecolor="none", pad=0.8, alpha=0.8),
        )


def _fill(axes: Axes, mask: np.ndarray, color: np.ndarray) -> None:
    axes.imshow(np.dstack([*(np.full(mask.shape, x) for x in color), 0.45 * mask]))


def _draw_labels(axes: Axes, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Tint the pixels of each class, and name the classes that cover most."""
    axes.imshow(np.dstack([COLORS[labels % len(COLORS)], 0.55 * (labels != IGNORED)]))
    present, counts = np.unique(labels[labels != IGNORED], return_counts=True)
    largest = present[np.argsort(-counts)][:5]
    handles = [
        Rectangle((0, 0), 1, 1, color=COLORS[label % len(COLORS)], label=classes[label])
        for label in largest
    ]
    if handles:
        axes.legend(handles=handles, fontsize=6, loc="lower left", borderaxespad=0.2)

"""Drawing of the curves of a training, apart from their hook as Matplotlib takes long to import."""

from pathlib import Path

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# maximum number of points of a loss curve; more are not visible
MAX_POINTS = 500
COLORS = color_sequences["tab20"] + color_sequences["tab20b"]


def draw_curves(
    losses: dict[str, np.ndarray],
    metrics: dict[str, list[tuple[int, float]]],
    last_iter: int,
    path: Path,
) -> None:
    """Draw losses and metrics over the iterations side by side, and save them as an image.

    Args:
        losses: values of the latest iterations, one for each.
        metrics: pairs of iteration and value.
        last_iter: iteration of the last value of the losses.
        path: file of the image.
    """
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.set_prop_cycle(color=COLORS)
    for name, values in sorted(losses.items()):
        _plot_smooth(left, values, last_iter, name)
    left.set(xlabel="iteration", ylabel="loss (mean of neighbours)", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    for name, points in sorted(metrics.items()):
        right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    right.set(xlabel="iteration", ylabel="validation metric")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def _plot_smooth(axes: Axes, values: np.ndarray, last_iter: int, name: str) -> None:
    """Plot at most MAX_POINTS points, each the mean of equally many neighbouring values."""
    width = -(-len(values) // MAX_POINTS)
    usable = len(values) - len(values) % width
    if not usable:
        return
    means = values[:usable].reshape(-1, width).mean(1)
    first = last_iter - len(values)
    axes.plot([first + width * (i + 1) for i in range(len(means))], means, label=name, lw=1)

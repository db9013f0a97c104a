"""Panels of figures: heat maps over an image, pictures, kernels, charts; and their layout.

All places are in pixels of the image as the network receives it: panels of all layers align.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter

# width of a panel in inches, and dots per inch: more than 512 dots for the image
WIDTH, DPI = 4.4, 160
MAX_COLUMNS = 4
# panels of single heads, or kernels of single channels
MAX_SINGLE = 7
# (x, y, width, height) in pixels
Box = tuple[float, float, float, float]


@dataclass
class Panel:
    """A picture with a title; subclasses draw it. A ``$`` in its words begins no formula.

    Args:
        title: title above the picture.
        boxes: rectangles to draw, by colour and label of the legend.
        mark: (y, x) of a cross.
    """

    title: str
    boxes: Sequence[tuple[Box, str, str]] = field(default=(), kw_only=True)
    mark: tuple[float, float] | None = field(default=None, kw_only=True)

    @property
    def ratio(self) -> float:
        """Height of the picture as a share of its width."""
        return 0.75

    def draw(self, axes: Axes) -> None:
        """Draw the picture, without its title, boxes and mark."""
        raise NotImplementedError

    def finish(self, axes: Axes) -> None:
        """Draw the title, boxes and mark."""
        axes.set_title(self.title, fontsize=9, parse_math=False)
        labels = set()
        for (x, y, width, height), colour, label in self.boxes:
            axes.add_patch(
                Rectangle(
                    *((x, y), width, height),
                    fill=False,
                    edgecolor=colour,
                    linewidth=1.6,
                    label=None if label in labels else label,
                )
            )
            labels.add(label)
        if self.mark is not None:
            axes.plot(
                *([self.mark[1]], [self.mark[0]], "+"),
                color="cyan",
                markersize=11,
                markeredgewidth=2,
                label="position",
            )
        if self.boxes or self.mark is not None:
            legend = axes.legend(fontsize=6.5, loc="upper right", framealpha=0.75, borderpad=0.3)
            for text in legend.get_texts():
                text.set_parse_math(False)


@dataclass
class Picture(Panel):
    """An RGB image, from 0 to 1, stretched over the size of the image.

    Args:
        pixels: image ``(h, w, 3)``.
        size: height and width of the image that it stands for, in pixels.
        extent: height and width that the pixels cover, which may exceed the image.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    extent: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        return self.size[0] / self.size[1]

    def draw(self, axes: Axes) -> None:
        height, width = self.extent or self.size
        axes.imshow(self.pixels, extent=(0, width, height, 0), interpolation="nearest")
        _fit(axes, self.size)


@dataclass
class Heat(Panel):
    """A heat map over an image, with its scale.

    Args:
        image: RGB image ``(H, W, 3)``, from 0 to 1.
        heat: values ``(h, w)``; NaN leaves the image bare.
        label: what the values are.
        extent: height and width in pixels that the values cover.
        signed: whether the scale is symmetric around zero.
        tight: whether the scale starts at the smallest value instead of zero.
        opacity: opacity of the largest value; smaller ones show more of the image.
    """

    image: np.ndarray
    heat: np.ndarray
    label: str
    extent: tuple[float, float]
    signed: bool = False
    tight: bool = False
    opacity: float = 0.85

    @property
    def ratio(self) -> float:
        return self.image.shape[0] / self.image.shape[1]

    def draw(self, axes: Axes) -> None:
        size, limits = self.image.shape[:2], _limits(self.heat, self.signed, self.tight)
        axes.imshow(
            self.image.mean(2), cmap="gray", vmin=0, vmax=1, extent=(0, size[1], size[0], 0)
        )
        drawn = axes.imshow(
            self.heat,
            extent=(0, self.extent[1], self.extent[0], 0),
            interpolation="nearest",
            alpha=self.opacity * np.sqrt(0.1 + 0.9 * _shares(self.heat, limits)),
            **limits,
        )
        _fit(axes, size)
        _add_scale(axes, drawn, self.label)


@dataclass
class Matrix(Panel):
    """A small matrix such as a kernel, with its scale.

    Args:
        values: values ``(K, K)``.
        label: what the values are.
        signed: whether the scale is symmetric around zero.
    """

    values: np.ndarray
    label: str
    signed: bool = True

    @property
    def ratio(self) -> float:
        return self.values.shape[0] / self.values.shape[1]

    def draw(self, axes: Axes) -> None:
        drawn = axes.imshow(
            self.values, interpolation="nearest", **_limits(self.values, self.signed)
        )
        rows, columns = self.values.shape
        axes.set_xticks(range(columns), [str(i - columns // 2) for i in range(columns)])
        axes.set_yticks(range(rows), [str(i - rows // 2) for i in range(rows)])
        axes.tick_params(labelsize=7)
        _add_scale(axes, drawn, self.label)


@dataclass
class Chart(Panel):
    """Lines over numbered places, with a legend.

    Args:
        series: values by name.
        places: names of the places on the horizontal axis.
        label: what the values are.
    """

    series: dict[str, np.ndarray]
    places: Sequence[str]
    label: str

    def draw(self, axes: Axes) -> None:
        many = len(self.places) > 24
        for name, values in self.series.items():
            axes.plot(values, "-" if many else "o-", markersize=3, linewidth=1.3, label=name)
        step = max(len(self.places) // 12, 1)
        shown = range(0, len(self.places), step)
        axes.set_xticks(shown, [self.places[i] for i in shown], rotation=60, ha="right")
        axes.tick_params(labelsize=6.5)
        axes.set_ylabel(self.label, fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)


class View(NamedTuple):
    """Panels to draw together, and the numbers in them."""

    title: str
    panels: list[Panel]
    numbers: dict[str, np.ndarray]
    # indices of the panels on the summary sheet
    best: Sequence[int] = (0,)


def _limits(values: np.ndarray, signed: bool, tight: bool = False) -> dict[str, Any]:
    """Return colours and limits of the scale of some values."""
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0)) or 1.0
    if signed:
        return dict(cmap="RdBu_r", vmin=-largest, vmax=largest)
    smallest = float(finite.min()) if tight and finite.size else 0.0
    return dict(cmap="inferno", vmin=smallest if smallest < largest else 0.0, vmax=largest)


def _shares(values: np.ndarray, limits: dict[str, Any]) -> np.ndarray:
    """Return where values are between the neutral end of their scale, 0, and the other, 1."""
    low, high = (max(limits[end], 0.0) for end in ("vmin", "vmax"))
    shares = (np.abs(values) - low) / (high - low)
    # what is not finite is not drawn
    return np.nan_to_num(shares, nan=0, posinf=0, neginf=0).clip(0, 1)


def _fit(axes: Axes, size: Sequence[int]) -> None:
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0))
    axes.tick_params(labelsize=6.5)


def _add_scale(axes: Axes, drawn: Any, label: str) -> None:
    scale = ScalarFormatter(useOffset=False)
    scale.set_powerlimits((-2, 3))
    values = np.ma.filled(drawn.get_array().astype(float), np.nan)
    finite = values[np.isfinite(values)]
    # ranks and numbers of things have nothing in between
    ticks = MaxNLocator(integer=True) if (finite == finite.round()).all() else None
    # an inset is as tall as the picture
    inset = axes.inset_axes((1.02, 0, 0.035, 1))
    bar = axes.figure.colorbar(drawn, cax=inset, format=scale, ticks=ticks)
    bar.set_label(label, fontsize=7.5)
    bar.ax.tick_params(labelsize=6.5)
    bar.ax.yaxis.get_offset_text().set_fontsize(6.5)
    # opaque, as the largest values nearly are
    bar.set_alpha(1)


def draw_figure(
    panels: Sequence[Panel], title: str, *, columns: int = MAX_COLUMNS, width: float = WIDTH
) -> Figure:
    """Draw panels row by row under a title.

    Args:
        panels: panels to draw.
        title: title of the figure.
        columns: largest number of panels in a row.
        width: width of a panel, in inches; letters have one size.
    """
    columns = min(len(panels), columns)
    rows = -(-len(panels) // columns)
    # very long images keep readable text around them
    ratio = min(max(max(panel.ratio for panel in panels), 0.45), 2.0)
    figure = Figure(
        figsize=(width * columns, (0.86 * width * ratio + 0.6) * rows + 0.5),
        dpi=DPI,
        layout="constrained",
    )
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid[: len(panels)], panels, strict=True):
        panel.draw(axes)
        panel.finish(axes)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF, and return both paths."""
    FigureCanvasAgg(figure)
    written = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf")]
    for path in written:
        figure.savefig(path)
    return written

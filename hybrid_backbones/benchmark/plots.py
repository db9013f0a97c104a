"""Plots of speed against size: backbones by parameters, operators by map size."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import SimplePatchShadow, Stroke
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

# of each network: colour (Okabe and Ito) and marker, so that neither alone has to tell them apart
MARKS = {
    "ACmixResNet": ("#e69f00", "o"),
    "ACmixSwin": ("#b8860b", "s"),
    "BiFormer": ("#0072b2", "^"),
    "MixFormer": ("#009e73", "D"),
    "SwiftFormer": ("#d55e00", "v"),
    "UniFormer": ("#cc79a7", "o"),
    "UniFormerLight": ("#882255", "s"),
    "XVolutionResNet": ("#555555", "P"),
    # what they are compared with
    "ResNet": ("#000000", "X"),
    "Swin": ("#56b4e9", "*"),
}
# where the name of a point may stand: directions from the point, and distances in points; what is
# further than the first gets a line to its point
DIRECTIONS = ((1, 1), (-1, -1), (1, -1), (-1, 1), (0, 1), (0, -1), (1, 0), (-1, 0))
DISTANCES = (5, 16, 30, 46, 64, 84, 110)
ALIGNMENTS = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}


# letters before lines of the plot; a lone "T" would be moved to whole pixels, and look thin
LETTERING = [
    Stroke(linewidth=3, foreground="white"),
    SimplePatchShadow((0, 0), shadow_rgbFace="black", alpha=1, snap=False),
]
# in pixels, between names and whatever is beside them
GAP = 2

# of growth: what every panel shows for comparison, panels side by side, and size of a panel
BASELINE, COLUMNS, PANEL = "Conv2d", 4, (3.6, 3.2)
# in points, readable at half of the size
LETTERS = 13


def draw(rows: list[dict], setting: dict[str, Any], out: Path) -> Figure:
    """Plot the measured rows of operators or backbones, and save the figure in `out`.

    Args:
        rows: rows of a table.
        setting: where they were measured, as :func:`.settings.describe` says it.
        out: file of the picture.
    """
    measured = [row for row in rows if "error" not in row]
    plot = _plot_backbones if "backbone" in rows[0] else _plot_growth
    where = "{device_name}, {threads} CPU threads, {dtype}, batch {batch}".format(**setting)
    figure = plot(measured, where)
    figure.savefig(out, dpi=110)
    return figure


def _scale(axes, across: tuple[int, ...], up: tuple[int, ...]) -> None:
    """Make both axes logarithmic, with ticks at these multiples of powers of ten."""
    axes.set(xscale="log", yscale="log")
    for axis, multiples in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_major_locator(LogLocator(subs=multiples))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=LETTERS - 2)
    axes.grid(alpha=0.3, which="both")


def write_names(
    axes, names: list[tuple[str, tuple[float, float]]], fontsize: float = 7
) -> list[Annotation]:
    """Write names beside their points, each at the nearest place where it covers nothing.

    Args:
        axes: axes of a figure whose layout is computed.
        names: names, and points in the coordinates of the data.
        fontsize: size of the letters in points.
    """
    frame, legend, texts = axes.get_window_extent(), axes.get_legend(), []
    centres = axes.transData.transform([point for _, point in names])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    taken += [legend.get_window_extent()] if legend else []
    for name, point in names:
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=fontsize)
        text.set_path_effects(LETTERING)
        # a text that was part of the layout would change it
        text.set_in_layout(False)
        places = [(distance, place) for distance in DISTANCES for place in DIRECTIONS]
        overlaps = [_put(text, *place, frame, taken) for place in places]
        distance, direction = places[overlaps.index(min(overlaps))]
        _put(text, distance, direction, frame, taken)
        taken.append(text.get_window_extent())
        texts.append(text)
        if distance > DISTANCES[0]:
            line = dict(arrowstyle="-", lw=0.6, color="gray")
            offset = [distance * sign for sign in direction]
            axes.annotate(
                "", point, offset, textcoords="offset points", arrowprops=line
            ).set_in_layout(False)
    return texts


def _put(
    text: Annotation, distance: float, direction: tuple[int, int], frame: Bbox, taken: list[Bbox]
) -> int:
    """Put a name into a place, and return how many others it overlaps there; many outside."""
    across, up = direction
    text.set(
        position=(distance * across, distance * up),
        ha=ALIGNMENTS[across][0],
        va=ALIGNMENTS[up][1],
    )
    box = text.get_window_extent().padded(GAP)
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
    inside &= frame.y0 <= box.y0 and box.y1 <= frame.y1
    return box.count_overlaps(taken) + (0 if inside else len(taken) + 1)


def _plot_backbones(rows: list[dict], where: str) -> Figure:
    """Plot one line for each family, from its smallest network to its largest."""
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[dict]] = {}
    names = []
    for row in rows:
        family = row["backbone"].rpartition("-")[0] + (", compiled" * (row["mode"] == "compiled"))
        families.setdefault(family, []).append(row)
    for family, members in families.items():
        members.sort(key=lambda row: row["params"])
        x = [row["params"] / 1e6 for row in members]
        y = [row["images_per_s"] for row in members]
        network, _, compiled = family.partition(", ")
        colour, marker = MARKS[network]
        style: dict[str, Any] = dict(ls="--", mfc="w") if compiled else {}
        axes.plot(x, y, color=colour, marker=marker, markersize=9, label=family, **style)
        for row, point in zip(members, zip(x, y, strict=True), strict=True):
            names.append((row["backbone"].rpartition("-")[2], point))
    _scale(axes, (1, 2, 3, 5), (1, 2, 3, 5))
    axes.set_title(f"Speed of backbones against their size\n{where}", fontsize=LETTERS + 2)
    axes.set_xlabel("parameters (M)", fontsize=LETTERS)
    axes.set_ylabel("images/s of inference", fontsize=LETTERS)
    axes.legend(fontsize=LETTERS - 1, loc="center left", bbox_to_anchor=(1, 0.5))
    # computes the layout, on which the extents of points and names depend
    figure.draw_without_rendering()
    write_names(axes, names, LETTERS - 2)
    return figure


def _plot_growth(rows: list[dict], where: str) -> Figure:
    """Plot time over the size of the map, with a panel for each operator and shared axes."""
    lines: dict[str, dict[str, list[dict]]] = {}
    for row in rows:
        lines.setdefault(row["operator"], {}).setdefault(row["implementation"], []).append(row)
    baseline = lines.pop(BASELINE, {}) if len(lines) > 1 else {}
    columns = min(COLUMNS, len(lines))
    height = -(-len(lines) // columns)
    size = (PANEL[0] * columns + 0.6, PANEL[1] * height + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes in grid[len(lines) :]:
        axes.remove()
    for axes, (operator, implementations) in zip(figure.axes, lines.items(), strict=True):
        for members in baseline.values():
            _plot_line(axes, members, color="gray", lw=1.5, label=BASELINE)
        for name, members in implementations.items():
            style = dict(color="tab:orange", ls="--") if name == "reference" else {}
            _plot_line(axes, members, **(dict(color="tab:blue", lw=2, marker="o") | style))
        _scale(axes, (2, 5), (1,))
        axes.set_title(operator, fontsize=LETTERS - 1)
    title = f"Forward and backward pass over the size of the map\n{where}"
    figure.suptitle(title, fontsize=LETTERS + 2)
    # the last panel of each column, some of which are not in the last row
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("positions of the map", fontsize=LETTERS - 1)
        axes.tick_params(labelbottom=True)
    figure.supylabel("ms", fontsize=LETTERS)
    styles = {"this implementation": ("tab:blue", "-"), "its reference": ("tab:orange", "--")}
    styles |= {BASELINE: ("gray", "-")} if baseline else {}
    handles = [Line2D([], [], color=c, ls=ls, lw=2, label=n) for n, (c, ls) in styles.items()]
    figure.legend(handles=handles, fontsize=LETTERS, loc="outside lower center", ncols=3)
    return figure


def _plot_line(axes, members: list[dict], **style) -> None:
    x = [_positions(row["size"]) for row in members]
    axes.plot(x, [row["forward_backward_ms"]["median"] for row in members], **style)


def _positions(size: str) -> int:
    height, width = map(int, size.split("×"))
    return height * width

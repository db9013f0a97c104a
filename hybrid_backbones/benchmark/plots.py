"""Plots of speed against size: backbones by parameters, operators by map size."""

from pathlib import Path

from matplotlib import color_sequences
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

COLORS = color_sequences["tab20"]
# where the name of a point may stand: offset in points, horizontal and vertical alignment
PLACES = (
    ((4, 4), "left", "bottom"),
    ((-4, -4), "right", "top"),
    ((4, -4), "left", "top"),
    ((-4, 4), "right", "bottom"),
)


def draw(rows: list[dict], out: Path) -> None:
    """Plot the measured rows of operators or backbones, and save the figure in `out`."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLORS)
    measured = [row for row in rows if "error" not in row]
    names = []
    if "backbone" in rows[0]:
        names = _plot_backbones(axes, measured)
    else:
        _plot_operators(axes, measured)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    if names:
        _write_names(axes, names)
    figure.savefig(out, dpi=110)


def _write_names(axes, names: list[tuple[str, tuple[float, float]]]) -> None:
    """Write names beside their points, each at the first of PLACES where it covers nothing."""
    # computes the layout, on which the extents of points and names depend
    axes.figure.draw_without_rendering()
    centres = axes.transData.transform([point for _, point in names])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    for name, point in names:
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=7)
        for offset, horizontal, vertical in PLACES:
            text.set(position=offset, ha=horizontal, va=vertical)
            box = text.get_window_extent()
            if not box.count_overlaps(taken):
                break
        taken.append(box)


def _plot_backbones(axes, rows: list[dict]) -> list[tuple[str, tuple[float, float]]]:
    """Plot one line for each family, from its smallest network to its largest.

    Returns:
        name of each network, and its point.
    """
    families: dict[str, list[dict]] = {}
    names = []
    for row in rows:
        family = row["backbone"].rpartition("-")[0] + (", compiled" * (row["mode"] == "compiled"))
        families.setdefault(family, []).append(row)
    for family, members in families.items():
        members.sort(key=lambda row: row["params"])
        x = [row["params"] / 1e6 for row in members]
        y = [row["images_per_s"] for row in members]
        axes.plot(x, y, marker="o", markersize=5, label=family)
        for row, point in zip(members, zip(x, y, strict=True), strict=True):
            names.append((row["backbone"].rpartition("-")[2], point))
    axes.set(xlabel="parameters (M)", ylabel="images/s of inference", xscale="log", yscale="log")
    return names


def _plot_operators(axes, rows: list[dict]) -> None:
    """Plot one line for each implementation over the map size, dashed for references."""
    lines: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        lines.setdefault((row["operator"], row["implementation"]), []).append(row)
    operators = dict.fromkeys(operator for operator, _ in lines)
    colors = {operator: COLORS[i % len(COLORS)] for i, operator in enumerate(operators)}
    for (operator, implementation), members in lines.items():
        axes.plot(
            [_positions(row["size"]) for row in members],
            [row["forward_backward_ms"]["median"] for row in members],
            color=colors[operator],
            linestyle="--" if implementation == "reference" else "-",
            marker="o",
            markersize=4,
            label=f"{operator}, {implementation}",
        )
    axes.set(xlabel="positions of the map", ylabel="forward + backward (ms)")
    axes.set(xscale="log", yscale="log")


def _positions(size: str) -> int:
    height, width = map(int, size.split("×"))
    return height * width

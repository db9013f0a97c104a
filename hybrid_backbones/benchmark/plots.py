"""Plots of speed against size: backbones by parameters, operators by map size."""

from pathlib import Path

from matplotlib import color_sequences
from matplotlib.figure import Figure

COLORS = color_sequences["tab20"]


def draw(rows: list[dict], out: Path) -> None:
    """Plot the measured rows of operators or backbones, and save the figure in `out`."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLORS)
    measured = [row for row in rows if "error" not in row]
    plot = _plot_backbones if "backbone" in rows[0] else _plot_operators
    plot(axes, measured)
    axes.grid(alpha=0.3, which="both")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(out, dpi=110)


def _plot_backbones(axes, rows: list[dict]) -> None:
    """Plot one line for each family, from its smallest network to its largest."""
    families: dict[str, list[dict]] = {}
    for row in rows:
        family = row["backbone"].rpartition("-")[0] + (", compiled" * (row["mode"] == "compiled"))
        families.setdefault(family, []).append(row)
    for family, members in families.items():
        members.sort(key=lambda row: row["params"])
        x = [row["params"] / 1e6 for row in members]
        y = [row["images_per_s"] for row in members]
        axes.plot(x, y, marker="o", markersize=5, label=family)
        for row, *point in zip(members, x, y, strict=True):
            name = row["backbone"].rpartition("-")[2]
            axes.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="parameters (M)", ylabel="images/s of inference", xscale="log", yscale="log")


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

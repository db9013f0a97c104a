"""Pictures of a leaderboard: accuracy against a cost, with a panel for each method.

The Pareto front joins the configs that no other one beats in both. Times of different machines
cannot be compared, so each machine has its own front.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .plots import write_names

MAX_COLUMNS = 3
# ratio of costs from which on their axis is logarithmic
WIDE = 5
# size of a panel in inches, and of its letters in points: readable at half of the size
PANEL, LETTERS = (6.4, 5.2), 14
# of machines
COLORS = ("tab:red", "tab:blue", "tab:green", "tab:purple", "tab:brown")


class Point(NamedTuple):
    """A config in a panel.

    `metric` says what the score is, `deviation` is that over seeds, and `place` is the machine on
    which the cost was measured, empty where it does not depend on one.
    """

    name: str
    cost: float
    score: float
    deviation: float
    metric: str
    place: str = ""


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one dominates, from the cheapest to the dearest.

    A point dominates another if it costs no more and scores no less, and one of both is better.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.score)):
        best = front[-1] if front else None
        if best is None or point.score > best.score or point[1:3] == best[1:3]:
            front.append(point)
    return front


def draw_board(panels: Mapping[str, Sequence[Point]], cost: str, out: Path) -> Figure:
    """Draw a panel for each method, and save the picture whole.

    Args:
        panels: points by title, at least one of each.
        cost: title of the horizontal axes.
        out: file of the picture.
    """
    columns = min(MAX_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (PANEL[0] * columns, PANEL[1] * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"Accuracy against {cost}", fontsize=LETTERS + 4)
    for axes in figure.subplots(rows, columns, squeeze=False).flat[len(panels) :]:
        axes.remove()
    places = dict.fromkeys(p.place for points in panels.values() for p in points)
    colors = {place: COLORS[i % len(COLORS)] for i, place in enumerate(places)}
    for axes, (title, points) in zip(figure.axes, panels.items(), strict=True):
        _draw_panel(axes, title, points, cost, colors)
    # below all panels, where it hides no point
    fronts = {
        label: line
        for axes in figure.axes
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(fronts.values()), list(fronts), loc="outside lower center", fontsize=LETTERS)
    # computes the layout, on which the places of names depend
    figure.draw_without_rendering()
    for axes, points in zip(figure.axes, panels.values(), strict=True):
        write_names(axes, [(p.name, (p.cost, p.score)) for p in points], LETTERS - 2)
    draft = out.with_name(f".{out.name}.part")
    figure.savefig(draft, dpi=110, format="png")
    draft.replace(out)
    return figure


def _draw_panel(
    axes, title: str, points: Sequence[Point], cost: str, colors: Mapping[str, str]
) -> None:
    for place in dict.fromkeys(p.place for p in points):
        there, color = [p for p in points if p.place == place], colors[place]
        front = pareto_front(there)
        label = f"Pareto front, {place}" if place else "Pareto front"
        x, y = [p.cost for p in front], [p.score for p in front]
        axes.plot(x, y, "--", color=color, lw=1.5, label=label, zorder=1)
        for members, fill in ((there, "white"), (front, color)):
            axes.errorbar(
                [p.cost for p in members],
                [p.score for p in members],
                yerr=[p.deviation for p in members],
                fmt="o",
                markersize=7,
                capsize=4,
                color=color,
                markerfacecolor=fill,
            )
    axes.set_title(title, fontsize=LETTERS)
    axes.set_xlabel(cost, fontsize=LETTERS)
    axes.set_ylabel(" or ".join(dict.fromkeys(p.metric for p in points)), fontsize=LETTERS)
    if max(p.cost for p in points) > WIDE * min(p.cost for p in points):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=LETTERS - 2)
    # room for names
    axes.margins(0.25, 0.2)
    low, high = axes.get_ylim()
    # all metrics are percentages
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 100)])
    axes.grid(alpha=0.3)

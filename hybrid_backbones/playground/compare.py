"""Tab Compare backbones: the model zoo as a scatter plot, accuracy beside costs.

The rows are those of `docs/model_zoo.md`, saved with the package.
"""

import html
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from ..benchmark.zoo import GROUPS, SOURCES
from ..benchmark.zoo_table import Row, Zoo, read_zoo
from .handlers import reporting, require_chosen

METRICS = ("top-1", "box AP", "mask AP", "mIoU")
PARAMS, FLOPS = "parameters (M)", "FLOPs (G)"
# of Row: what was measured, by its title
MEASURED = {"latency (ms)": "forward_ms", "training memory (MiB)": "train_memory_mib"}
COSTS = (PARAMS, FLOPS, *MEASURED)
# of each group of configs, so that all results of a task can be compared
TASKS = {title: prefix for prefix, title in GROUPS.items()}
# the same in every task, and apart for most of those who see colours differently (Okabe and Ito)
COLOURS = dict(
    zip(
        sorted({re.sub(r"\[(.*?)\]\(.*?\)", r"\1", source) for source in SOURCES.values()}),
        ("#e69f00", "#56b4e9", "#009e73", "#b8a800", "#555555", "#0072b2", "#d55e00", "#cc79a7"),
        strict=True,
    )
)
# widths of the columns of the table in pixels
WIDTHS = dict(config=230, published=420)
OTHER_WIDTH = 110
COLUMNS = (
    *("config", "family"),
    *("published", "parameters published (M)", "FLOPs published (G)", "counted at"),
)


class Chart(NamedTuple):
    """Points of a scatter plot, and the sentences that say where they come from."""

    points: list[dict[str, Any]]  # config, family, x, y, and the columns of the table
    words: str


def family(row: Row) -> str:
    """Return the publication of a row's backbone, without its link."""
    return re.sub(r"\[(.*?)\]\(.*?\)", r"\1", SOURCES[row.backbone])


def in_task(row: Row, task: str) -> bool:
    """Return whether a row belongs to a task, one of `TASKS`."""
    return re.fullmatch(rf"{TASKS[task]}_.*", row.config) is not None


def figure(row: Row, name: str, side: int) -> float | None:
    """Return a figure of a row at images of a height in pixels, None if it is not known there."""
    if name == PARAMS:
        return row.params
    if name in MEASURED:
        return getattr(row, MEASURED[name])
    if name == FLOPS:
        return row.macs if side == row.size[0] else None
    return row.result(name, side)


def axes_of(zoo: Zoo, task: str) -> list[str]:
    """Return the figures that at least one row of a task has, the results first."""
    rows = [row for row in zoo.rows if in_task(row, task)]
    names = (*METRICS, *COSTS)
    return [name for name in names if any(figure(row, name, row.size[0]) for row in rows)]


def tasks_of(zoo: Zoo) -> list[str]:
    """Return the tasks with results that can be drawn beside a cost."""
    return [task for task in TASKS if {*METRICS, FLOPS} & {*axes_of(zoo, task)} > {FLOPS}]


def default_axes(zoo: Zoo, task: str) -> tuple[str, str]:
    """Return the axes that a task is shown with first: a result over FLOPs."""
    return FLOPS, axes_of(zoo, task)[0]


def families_of(zoo: Zoo, task: str) -> list[str]:
    """Return the families with a published result in a task."""
    rows = [row for row in zoo.rows if in_task(row, task)]
    return sorted({family(row) for row in rows if any(row.result(name) for name in METRICS)})


def chart(zoo: Zoo, task: str, families: Sequence[str], x: str, y: str) -> Chart:
    """Collect the rows that have both figures.

    Args:
        zoo: rows and where they were measured.
        task: one of `TASKS`.
        families: families to show.
        x, y: figures of the axes, of :func:`axes_of`.

    Raises:
        ValueError: if no row is left, with one sentence for the page.
    """
    if not families:
        raise ValueError("Choose at least one family of backbones.")
    axes = axes_of(zoo, task)
    if x not in axes or y not in axes:
        unknown = x if x not in axes else y
        raise ValueError(f"{task} has no {unknown}: choose one of {', '.join(axes)}.")
    points = []
    for row in zoo.rows:
        if not in_task(row, task) or family(row) not in families:
            continue
        # what was measured goes with the results and costs at the same size of images
        side = zoo.setting["size"][0] if {x, y} & MEASURED.keys() else row.size[0]
        place = figure(row, x, side), figure(row, y, side)
        if None not in place:
            points.append(_point(zoo, row, side, axes) | dict(x=place[0], y=place[1]))
    if not points:
        raise ValueError("No config has both figures: choose other axes or families.")
    return Chart(points, f"{len(points)} configs. {describe(zoo, x, y)}")


def _point(zoo: Zoo, row: Row, side: int, axes: Sequence[str]) -> dict[str, Any]:
    # a figure that was measured at another size would mislead in the same line
    same = side == zoo.setting["size"][0]
    figures = {
        name: figure(row, name, side) if same or name not in MEASURED else None for name in axes
    }
    rest = (
        *(row.config, family(row)),
        *(row.published, _number(row.published_params), _number(row.published_macs)),
        f"{row.size[0]}×{row.size[1]}",
    )
    return dict(zip(COLUMNS, rest, strict=True)) | figures


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def describe(zoo: Zoo, x: str, y: str) -> str:
    """Say of both axes which figures are published, counted or measured, and where."""
    at = dict(zoo.setting, date=zoo.setting["date"][:10])
    sources = {
        PARAMS: "counted here, of the whole model",
        FLOPS: "counted here: multiply-accumulates of the whole model for one image",
    } | dict.fromkeys(
        MEASURED,
        "measured here on {date}: the backbone alone, {device_name}, {threads} CPU threads, "
        "PyTorch {torch}, batch {batch}, {dtype}, {size[0]}×{size[1]}, so that results are those "
        "at this size, too".format(**at),
    )
    published = "published by the authors, at a single scale; nothing was trained here"
    return " ".join(
        f"<b>{name}</b>: {sources.get(name, published)}." for name in dict.fromkeys((y, x))
    )


def to_plot(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the points as Gradio makes them of a table of pandas, which we do not need."""
    types = dict(x="quantitative", y="quantitative", family="nominal", config="nominal")
    data = [[point[name] for name in types] for point in points]
    return dict(columns=[*types], data=data, datatypes=types, mark="point")


def legend(points: Sequence[dict[str, Any]], words: str) -> str:
    """Return the colours of the families, which Gradio's legend cuts off on phones, and `words`."""
    names = sorted({point["family"] for point in points})
    swatches = " ".join(
        f"<span style='white-space: nowrap; margin-right: 1em'><span class='hb-swatch' "
        f"style='background: {COLOURS[name]}'></span>{html.escape(name)}</span>"
        for name in names
    )
    return f"<p>{swatches}</p><p class='hb-note'>{words}</p>"


def to_table(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the points as a table with numbers, so that it sorts by them."""
    figures = [name for name in points[0] if name not in (*COLUMNS, "x", "y")]
    headers = [*COLUMNS[:2], *figures, *COLUMNS[2:]]
    data = [[_rounded(point[name]) for name in headers] for point in points]
    return dict(headers=headers, data=data)


def table_of(points: Sequence[dict[str, Any]]) -> gr.Dataframe:
    """Lay out the table of :func:`to_table`."""
    value = to_table(points)
    widths: list[str | int] = [WIDTHS.get(name, OTHER_WIDTH) for name in value["headers"]]
    return gr.Dataframe(
        value,
        column_widths=widths,
        interactive=False,
        wrap=True,
        max_height=480,
        elem_id="compare-table",
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 1) if value >= 100 else float(f"{value:.4g}")
    return "" if value is None else value


def limits(values: Sequence[float]) -> list[float]:
    """Return the ends of an axis, with a margin, so that differences can be seen."""
    margin = 0.06 * (max(values) - min(values)) or 1.0
    return [min(values) - margin, max(values) + margin]


def settings_of(points: Sequence[dict[str, Any]], x: str, y: str) -> dict[str, Any]:
    """Return the settings of the plot."""
    ends = {f"{name}_lim": limits([point[name] for point in points]) for name in ("x", "y")}
    return dict(value=to_plot(points), x_title=x, y_title=y, **ends)


def build() -> None:
    """Lay out the tab."""
    zoo = read_zoo()
    tasks = tasks_of(zoo)
    first = chart(zoo, tasks[0], families_of(zoo, tasks[0]), *default_axes(zoo, tasks[0]))

    @reporting
    def draw(task: str, families: Sequence[str], x: str, y: str) -> tuple[Any, Any, str]:
        require_chosen(task, tasks, "Task")
        require_chosen(x, axes_of(zoo, task), "Horizontal axis")
        require_chosen(y, axes_of(zoo, task), "Vertical axis")
        points, words = chart(zoo, task, families, x, y)
        return gr.ScatterPlot(**settings_of(points, x, y)), table_of(points), legend(points, words)

    @reporting
    def choose_task(task: str) -> tuple[Any, ...]:
        require_chosen(task, tasks, "Task")
        families, axes, (x, y) = families_of(zoo, task), axes_of(zoo, task), default_axes(zoo, task)
        fields = gr.CheckboxGroup(families, value=families), gr.Dropdown(axes, value=x)
        return *fields, gr.Dropdown(axes, value=y), *draw(task, families, x, y)

    x, y = default_axes(zoo, tasks[0])
    axes, families = axes_of(zoo, tasks[0]), families_of(zoo, tasks[0])
    gr.Markdown("Point at a dot for its config; click on a title of the table to sort by it.")
    with gr.Row():
        task = gr.Dropdown(tasks, value=tasks[0], label="Task", elem_id="compare-task")
        across = gr.Dropdown(axes, value=x, label="Horizontal axis", elem_id="compare-x")
        up = gr.Dropdown(axes, value=y, label="Vertical axis", elem_id="compare-y")
    shown = gr.CheckboxGroup(families, value=families, label="Families", elem_id="compare-families")
    plot = gr.ScatterPlot(
        **settings_of(first.points, x, y),
        x="x",
        y="y",
        color="family",
        color_map=COLOURS,
        colors_in_legend=[],
        tooltip=["config", "family"],
        height=420,
        elem_id="compare-plot",
    )
    words = gr.HTML(legend(*first), elem_id="compare-words", padding=True)
    table = table_of(first.points)
    fields: list[Any] = [task, shown, across, up]
    outputs: list[Any] = [plot, table, words]
    # a mistake must not cover the plot
    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")
    task.input(choose_task, task, [*fields[1:], *outputs], **quiet)
    for field in fields[1:]:
        field.input(draw, fields, outputs, **quiet)

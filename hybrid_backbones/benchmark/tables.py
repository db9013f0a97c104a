"""Tables of measured rows: for the terminal, in Markdown and as JSON.

A row is a dict of names and figures. A time is a dict of median, min and max; `ratio` holds the
figures of the reference divided by those of the row. A row that could not be measured has `error`
instead of figures, and one whose numbers are wrong has it beside them.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """Column of a table, which displays one figure of each row."""

    title: str
    meaning: str
    unit: float = 1.0  # divisor that gives the unit of the title
    compared: bool = False  # whether a ratio to the reference is shown


FIGURES = {
    "passed": Figure("passed", "tests"),
    "failed": Figure("failed", "tests"),
    "skipped": Figure("skipped", "tests"),
    "output_error": Figure(
        "error of the output", "norm of the error / norm of the exact values", compared=True
    ),
    "gradient_error": Figure(
        "error of the gradients", "the same for the worst of the inputs", compared=True
    ),
    "params": Figure("params (M)", "without classifier", 1e6),
    "macs": Figure(
        "MACs (G)", "one image; convolutions, linear layers, matrix products, attention", 1e9
    ),
    "moved_mib": Figure("moved (MiB)", "inputs, weights and output, which cannot but be moved"),
    "forward_ms": Figure(
        "forward (ms)", "median (min–max) of {repeats}, without gradients", compared=True
    ),
    "forward_copies": Figure(
        "copies", "time beside that of the fastest copy of half of the moved bytes, from no cache"
    ),
    "forward_backward_ms": Figure(
        "forward + backward (ms)", "median (min–max) of {repeats}", compared=True
    ),
    "forward_backward_copies": Figure("copies (both)", "the same for forward + backward"),
    "extra_memory_mib": Figure(
        "extra memory (MiB)", "growth at the peak of forward + backward", compared=True
    ),
    "kept_mib": Figure(
        "kept (MiB)", "storages kept for the backward pass, without parameters", compared=True
    ),
    "kept_maps": Figure("kept (maps)", "the same in maps of the input"),
    "launches": Figure(
        "launches",
        "kernels of forward + backward on a GPU: operations without views and allocations",
        compared=True,
    ),
    "images_per_s": Figure("images/s", "of inference"),
    "seconds": Figure("time (s)", "until all jobs have ended, start included, {repeats} runs"),
    "slowdown": Figure("beside one job", "time / that of one job whose threads wait alike"),
    "train_ms": Figure(
        "training step (ms)",
        "forward, backward and optimizer, median (min–max) of {repeats}",
        compared=True,
    ),
    "train_images_per_s": Figure("training images/s", "batch / median step"),
    "train_memory_mib": Figure(
        "training memory (MiB)", "growth at the peak of the first step", compared=True
    ),
}
SETTING = "Batch {batch}, {device_name}, CPU threads: {threads}, PyTorch {torch}"


def compare(reference: dict, row: dict) -> dict[str, float]:
    """Return reference / row for each compared figure that both have."""
    ratio = {}
    for name, figure in FIGURES.items():
        theirs, ours = (median_of(one.get(name)) for one in (reference, row))
        if figure.compared and theirs and ours:
            ratio[name] = theirs / ours
    return ratio


def median_of(figure: Any) -> Any:
    """Return the median of a time; another figure, or None, as it is."""
    return figure["median"] if isinstance(figure, dict) else figure


def tabulate(rows: list[dict]) -> list[list[str]]:
    """Turn rows into lines of cells; the first line has the titles of the columns."""
    names = [name for name, value in rows[0].items() if isinstance(value, str) and name != "error"]
    compared = {figure for row in rows for figure in row.get("ratio", ())}
    titles, lines = list(names), [[row[name] for name in names] for row in rows]
    for name in _present(rows):
        titles.append(FIGURES[name].title)
        for row, line in zip(rows, lines, strict=True):
            line.append(_cell(row.get(name), FIGURES[name].unit))
        if name in compared:
            titles.append("ratio")
            for row, line in zip(rows, lines, strict=True):
                line.append(_cell(row["ratio"].get(name), 1, "×"))
    return [titles, *lines]


def _present(rows: list[dict]) -> list[str]:
    return [name for name in FIGURES if any(row.get(name) is not None for row in rows)]


def _cell(figure: dict | float | None, unit: float, sign: str = "") -> str:
    if figure is None:
        return "–"
    if isinstance(figure, dict):
        return "{median} ({min}–{max})".format(**{k: _cell(v, unit) for k, v in figure.items()})
    value = figure / unit
    return f"{value:.3g}{sign}" if value < 100 else f"{value:.0f}{sign}"


def explain(rows: list[dict], setting: dict[str, Any]) -> str:
    """Return the caption of the table: the settings, and the meaning of each column."""
    if "tests" in rows[0]:
        return "{device_name}, PyTorch {torch}.".format(**setting)
    figures = [FIGURES[name] for name in _present(rows)]
    notes = [f"{figure.title.split(' (')[0]}: {figure.meaning}" for figure in figures]
    if "jobs" in rows[0]:
        text = "{device_name}, CPU threads of each job: {threads}, PyTorch {torch}. "
        return (text + "; ".join(notes) + ".").format(**setting)
    if any(row.get("ratio") for row in rows):
        notes.append("ratio: reference / this, so that more is better")
    # what differs between rows has a column
    shared = {"dtype": "{dtype}", "size": "{size[0]}×{size[1]}"}
    shared_texts = [text for name, text in shared.items() if name not in rows[0]]
    return f"{', '.join([SETTING, *shared_texts])}. {'; '.join(notes)}.".format(**setting)


def to_markdown(rows: list[dict], setting: dict[str, Any]) -> str:
    """Return the table, its caption and the failed rows in Markdown."""
    titles, *lines = tabulate(rows)
    table = markdown_table(titles, lines)
    return "\n".join([table, "", explain(rows, setting), *_failures(rows)])


def markdown_table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(map(markdown_line, (titles, ["---"] * len(titles), *lines)))


def markdown_line(cells: Iterable[str]) -> str:
    """Return a line of a table in Markdown."""
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _failures(rows: list[dict]) -> list[str]:
    return [
        f"{' '.join(v for v in row.values() if isinstance(v, str) and v != row['error'])} "
        f"{'is wrong' if 'output_error' in row else 'was not measured'}: {row['error']}"
        for row in rows
        if "error" in row
    ]


def report(rows: list[dict], setting: dict[str, Any], out: Path, *, markdown: bool = False) -> None:
    """Save the rows with the settings as JSON, and print them as a table or in Markdown.

    Where rich is not installed, which draws tables, they are printed in Markdown.
    """
    # first, as nobody may read what is printed
    write_whole(out, json.dumps(dict(setting, rows=rows), indent=2) + "\n")
    if markdown or find_spec("rich") is None:
        print(to_markdown(rows, setting))
    else:
        from rich.console import Console
        from rich.table import Table

        titles, *lines = tabulate(rows)
        table = Table(*titles, caption=explain(rows, setting))
        for cells in lines:
            table.add_row(*cells)
        # a pipe has no width
        Console(width=None if sys.stdout.isatty() else 140).print(table)
        for failure in _failures(rows):
            print(failure)
    print(f"saved to {out}")


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)

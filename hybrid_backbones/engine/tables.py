"""Turn measured rows into a table for the terminal, for a README and for programs.

A row is a dict: its names, then its figures, of which times are dicts of median, min and max, and
`ratio`, the figures of the reference divided by its own. A row that could not be measured has
`error` in place of figures.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# figure: title of its column, what divides it to give the title's unit, and what it means
FIGURES = {
    "params": ("params (M)", 1e6, "without classifier"),
    "macs": ("MACs (G)", 1e9, "one image; convolutions, linear layers, matrix products, attention"),
    "forward_ms": ("forward (ms)", 1, "median (min–max) of {repeats}, without gradients"),
    "forward_backward_ms": ("forward + backward (ms)", 1, "median (min–max) of {repeats}"),
    "extra_memory_mib": ("extra memory (MiB)", 1, "growth at the peak of forward + backward"),
}
SETTING = (
    "Batch {batch}, {size[0]}×{size[1]}, {dtype}, {device_name}, CPU threads: {threads}, "
    "PyTorch {torch}."
)


def compare(reference: dict, row: dict) -> dict[str, float]:
    """Return reference / row for each figure that both have."""
    ratio = {}
    for figure in FIGURES:
        theirs, ours = (_typical(one.get(figure)) for one in (reference, row))
        if theirs and ours:
            ratio[figure] = theirs / ours
    return ratio


def _typical(figure: dict | float | None) -> float | None:
    return figure["median"] if isinstance(figure, dict) else figure


def tabulate(rows: list[dict]) -> list[list[str]]:
    """Turn rows into lines of cells, the first line being the titles of the columns."""
    names = [name for name in rows[0] if name not in (*FIGURES, "ratio", "error")]
    figures = _present(rows)
    compared = {figure for row in rows for figure in row.get("ratio", ())}
    titles, lines = list(names), [[row[name] for name in names] for row in rows]
    for figure in figures:
        title, unit, _ = FIGURES[figure]
        titles.append(title)
        for row, line in zip(rows, lines, strict=True):
            line.append(_cell(row.get(figure), unit))
        if figure in compared:
            titles.append("ratio")
            for row, line in zip(rows, lines, strict=True):
                line.append(_cell(row["ratio"].get(figure), 1, "×"))
    return [titles, *lines]


def _present(rows: list[dict]) -> list[str]:
    return [figure for figure in FIGURES if any(figure in row for row in rows)]


def _cell(figure: dict | float | None, unit: float, sign: str = "") -> str:
    if figure is None:
        return "–"
    if isinstance(figure, dict):
        return "{median} ({min}–{max})".format(**{k: _cell(v, unit) for k, v in figure.items()})
    value = figure / unit
    return f"{value:.3g}{sign}" if value < 100 else f"{value:.0f}{sign}"


def explain(rows: list[dict], setting: dict[str, Any]) -> str:
    """Return what stands below the table: the setting, and the meaning of each column."""
    notes = [f"{FIGURES[f][0].split(' (')[0]}: {FIGURES[f][2]}" for f in _present(rows)]
    if any("ratio" in row for row in rows):
        notes.append("ratio: reference / this")
    return f"{SETTING} {'; '.join(notes)}.".format(**setting)


def report(rows: list[dict], setting: dict[str, Any], out: Path, *, markdown: bool = False) -> None:
    """Print the rows, as Markdown if asked, and save them with their setting as JSON in `out`."""
    titles, *lines = tabulate(rows)
    if markdown:
        for cells in (titles, ["---"] * len(titles), *lines):
            print(f"| {' | '.join(cells)} |")
        print(f"\n{explain(rows, setting)}")
    else:
        table = Table(*titles, caption=explain(rows, setting))
        for cells in lines:
            table.add_row(*cells)
        # a pipe has no width of its own
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    for row, cells in zip(rows, lines, strict=True):
        if "error" in row:
            print(f"{cells[0]} {cells[1]} was not measured: {row['error']}")
    out.write_text(json.dumps(dict(setting, rows=rows), indent=2) + "\n")
    print(f"saved to {out}")

"""The table of the fastest implementations on a GPU, from which operators choose by default."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .tables import median_of, write_whole

# figures that are compared: without gradients, and with
TIMES = ("forward", "forward_backward")


def write_fastest(measured: Path, errors: Path, out: Path) -> None:
    """Write the fastest implementations of a saved table of kernels, and where it was measured.

    Args:
        measured: table of kernels.
        errors: table of their errors; where there is none, all count as right.
        out: file to write.
    """
    saved = json.loads(measured.read_text())
    checked = json.loads(errors.read_text())["rows"] if errors.exists() else None
    origin = {key: saved[key] for key in ("device_name", "torch", "date", "command")}
    found = dict(origin, fastest=find_fastest(saved["rows"], checked))
    write_whole(out, json.dumps(found, indent=2) + "\n")


def find_fastest(
    rows: Iterable[dict[str, Any]], errors: Iterable[dict[str, Any]] | None = None
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the fastest implementation by operator, dtype and time.

    It takes the least time for all sizes together. The reference is left out, whose memory is many
    times that of the maps, and so is what was not measured at all sizes, or not found right.

    Args:
        rows: those of :func:`.benchmark_kernels`.
        errors: those of :func:`.benchmark_errors`; without them, all count as right.
    """
    rows = list(rows)
    checked = rows if errors is None else errors
    right = {_names(row) for row in checked if "operator" in row and "error" not in row}
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        group = groups.setdefault((row["operator"], row["dtype"]), [])
        if _names(row) in right:
            group.append(row)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for (operator, dtype), group in groups.items():
        totals = {time: _totals(group, f"{time}_ms") for time in TIMES}
        best = {time: min(total, key=total.__getitem__) for time, total in totals.items() if total}
        found.setdefault(operator, {})[dtype] = best
    return found


def _names(row: dict) -> tuple[str, str, str]:
    return row["operator"], row["dtype"], row["implementation"]


def _totals(group: Sequence[dict], figure: str) -> dict[str, float]:
    """Return the sum of a time over all sizes by implementation, where all were measured."""
    sizes = {row["size"] for row in group}
    totals = {}
    for name in {row["implementation"]: None for row in group}:
        times = [row[figure] for row in group if row["implementation"] == name and figure in row]
        if name != "reference" and len(times) == len(sizes):
            totals[name] = sum(map(median_of, times))
    return totals

"""Sizes of the networks on a leaderboard: where the smallest of a backbone was not run, and why."""

from collections.abc import Iterable, Mapping

from .board_entries import Entry, method_of
from .zoo_table import Row, read_zoo

# backbone and its `arch` or depth
Network = tuple[str, str | int]


def size_notes(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each config that is a backbone's smallest of its method, but has a smaller.

    Configs that are not in the model zoo are left out.
    """
    zoo = {row.config: row for row in read_zoo().rows}
    sizes = _sizes(zoo.values())
    run: dict[tuple, Row] = {}
    for row in (zoo[entry.first.name] for entry in entries if entry.first.name in zoo):
        key = row.backbone, method_of(row.config)
        run[key] = min(run.get(key, row), row, key=lambda one: sizes[_network(one)])
    return [note for row in run.values() if (note := _note(row, zoo.values(), sizes))]


def _network(row: Row) -> Network:
    return row.backbone, row.arch


def _sizes(rows: Iterable[Row]) -> dict[Network, float]:
    """Return the parameters of each network in its smallest config, which is a classifier."""
    sizes: dict[Network, float] = {}
    for row in rows:
        sizes[_network(row)] = min(row.params, sizes.get(_network(row), row.params))
    return sizes


def _note(row: Row, zoo: Iterable[Row], sizes: Mapping[Network, float]) -> str:
    """Return the line of a config, empty if its network is the smallest of the backbone."""
    smaller = [
        one
        for one in zoo
        if one.backbone == row.backbone and sizes[_network(one)] < sizes[_network(row)]
    ]
    if not smaller:
        return ""
    alike = [one for one in smaller if method_of(one.config) == method_of(row.config)]
    best = min(alike or smaller, key=lambda one: sizes[_network(one)])
    having = f"`{best.config}` has it" if alike else "no config of this method has it"
    return f"- `{row.config}`: {row.backbone} `{row.arch}`; `{best.arch}` is smaller, {having}"

"""The checkpoints that the authors publish, by name: where they are, what they fit and score.

The files are the authors' and are not distributed here. Of most of them no hash is known yet: who
downloads one first can add the size and hash that are printed to `published.tsv`.
"""

import csv
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One published file: a row of `published.tsv`."""

    # name, without suffix, of the file in configs/ whose model the checkpoint fits
    config: str
    # what --cfg-options must change in that config for this file
    options: Mapping[str, Any]
    # in the order in which they are tried, as :func:`fetch` takes them
    addresses: tuple[str, ...]
    # number of bytes and hash, None where they are not known yet
    size: int | None
    sha256: str | None
    # licence of the weights, empty where none is stated
    licence: str
    # as published, empty where no result is given for this file
    result: str
    # whether no address serves the file any more; one that a user has kept still loads
    dead: bool
    notes: str


def read_table() -> dict[str, PublishedCheckpoint]:
    """Read `published.tsv`, and return its rows by name."""
    table = files(__package__).joinpath("published.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {
        row["name"]: PublishedCheckpoint(
            config=row["config"],
            options=json.loads(row["options"] or "{}"),
            addresses=tuple(row["addresses"].split()),
            size=int(row["size"]) if row["size"] else None,
            sha256=row["sha256"] or None,
            licence=row["licence"],
            result=row["result"],
            dead=row["dead"] == "yes",
            notes=row["notes"],
        )
        for row in rows
    }


PUBLISHED = read_table()


def similar_names(name: str) -> str:
    """Return a suggestion of the published names most similar to `name`, or an empty string."""
    near = difflib.get_close_matches(PurePath(name).name, PUBLISHED, n=3)
    if not near:
        return ""
    return f"; did you mean the published {' or '.join(near)}? (hb weights list shows all)"

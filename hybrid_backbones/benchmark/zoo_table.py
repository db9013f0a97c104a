"""Rows of the model zoo: what was counted, published and measured of each config.

`tools/model_zoo.py` writes `model_zoo.json`, since counting builds every model. The figures come
from the docstrings of the configs, from their models, and from the table of measured backbones; a
test holds the file to them.
"""

import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

# relative tolerance of our figures; one that rounds to the published figure agrees as well
TOLERANCE = 0.02
FILE = "model_zoo.json"
# what a table of measured backbones says about all its rows
SETTING = ("date", "device_name", "threads", "torch", "batch", "dtype", "size", "command")


def significant(value: float | None, unit: float = 1.0) -> str:
    """Return a value in a unit with three digits, or all of its whole part, for a table."""
    if value is None:
        return "-"
    return f"{value / unit:.3g}" if value / unit < 100 else f"{value / unit:.0f}"


class Row(NamedTuple):
    """Costs and results of a config; None where nothing was published or measured."""

    config: str
    backbone: str
    arch: str | int
    size: tuple[int, int]
    params: float  # millions
    published_params: str | None
    macs: float  # billions
    published_macs: str | None
    published: str
    weights: list[str]
    # of the backbone alone, at the size of the measured table
    forward_ms: float | None = None
    train_memory_mib: float | None = None

    @property
    def deviations(self) -> dict[str, float]:
        """Ratios of our figures to the published ones, where they exceed the tolerance."""
        pairs = dict(
            parameters=(self.params, self.published_params), FLOPs=(self.macs, self.published_macs)
        )
        return {
            name: ours / float(theirs)
            for name, (ours, theirs) in pairs.items()
            if theirs and not _agree(ours, theirs)
        }

    def result(self, metric: str, side: int | None = None) -> float | None:
        """Return a published result, None if there is none.

        Args:
            metric: 'top-1', 'box AP', 'mask AP' or 'mIoU'; at a single scale.
            side: height of the images in pixels, by default that of `size`.
        """
        stated = re.search(rf"\b{metric} (\d\d\.\d+)", self.published)
        if stated is None:
            return None
        if side in (None, self.size[0]):
            return float(stated[1])
        others = re.findall(r"\b(\d\d\.\d+)(?: with [^;,×]*)? at (\d+)×", self.published)
        return next((float(value) for value, other in others if int(other) == side), None)


def _agree(ours: float, theirs: str) -> bool:
    decimals = len(theirs.partition(".")[2])
    return f"{ours:.{decimals}f}" == theirs or abs(ours / float(theirs) - 1) <= TOLERANCE


class Zoo(NamedTuple):
    """All rows, and where, when and how their measured figures were measured."""

    rows: list[Row]
    setting: dict


def add_measured(rows: Iterable[Row], table: dict) -> Zoo:
    """Add the figures of a table of ``tools/benchmark.py backbones`` to the classifiers' rows.

    Detectors and segmentors use their backbones with other options and at other sizes.
    """
    measured = {one["backbone"]: one for one in table["rows"] if one["mode"] == "eager"}
    return Zoo([_add(row, measured) for row in rows], {key: table[key] for key in SETTING})


def _add(row: Row, measured: dict[str, dict]) -> Row:
    one = measured.get(f"{row.backbone}-{row.arch}")
    # X-volution was measured with pixel shifts, not with the global attention of `_sa`
    if one is None or not row.config.startswith("imagenet_") or row.config.endswith("_sa"):
        return row
    return row._replace(
        forward_ms=one["forward_ms"]["median"], train_memory_mib=one["train_memory_mib"]
    )


def save_zoo(zoo: Zoo, path: str | Path) -> None:
    """Write the rows and the setting as JSON, a row per line."""
    rows = ",\n".join(json.dumps(row._asdict(), ensure_ascii=False) for row in zoo.rows)
    setting = json.dumps(zoo.setting, ensure_ascii=False)
    Path(path).write_text(f'{{"measured": {setting},\n"rows": [\n{rows}\n]}}\n', encoding="utf-8")


def read_zoo() -> Zoo:
    """Read the rows that come with the package."""
    saved = json.loads(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
    rows = [Row(**dict(one, size=tuple(one["size"]))) for one in saved["rows"]]
    return Zoo(rows, saved["measured"])

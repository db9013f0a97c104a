"""Published results, measured again with the authors' weights, and noted on a page."""

import json
import re
import shlex
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..checkpoints import PUBLISHED
from ..checkpoints.fetch import describe, fetch, hash_file
from ..checkpoints.published import similar_names
from ..training.checks import require_data
from ..training.launch import test
from ..training.requirements import require_writable_file
from ..training.run_config import read_config
from .settings import device_name
from .tables import markdown_line, write_whole
from .zoo import read_published, read_weights

# what each metric of the hosts is called, and its factor to percent
METRICS = {
    "coco/bbox_mAP": ("box AP", 100),
    "coco/segm_mAP": ("mask AP", 100),
    "accuracy/top1": ("top-1", 1),
    "mIoU": ("mIoU", 1),
}
# the two wordings of a published mIoU at many scales
MANY_SCALES = re.compile(r"many scales ([\d.]+)|([\d.]+) at many scales")
NOTHING = "Nothing has been evaluated yet.\n"
HEADER = (
    "| weights | config | evaluation | published | ours | difference | time | hardware | date | "
    f"SHA-256 |\n|{' --- |' * 10}\n"
)
INTRODUCTION = """\
# Reproduced results

What the authors' weights score here, beside what was published of them. Each row is written by
`python tools/reproduce.py NAME`, which downloads the file, verifies it and evaluates it as
published. Scores of the first N images only (`--limit N`), or with other settings
(`--cfg-options`), are no results: they show that all runs.

"""


class Evaluation(NamedTuple):
    """One way in which a published checkpoint is evaluated."""

    name: str
    config: Path
    tta: bool
    # published result, empty if there is none
    result: str

    @property
    def published(self) -> dict[str, float]:
        """Published figures in percent, by what they are called."""
        if self.tta:
            found = MANY_SCALES.search(self.result)
            return {"mIoU": float(found[1] or found[2])} if found else {}
        return published_figures(self.result)


def published_figures(result: str) -> dict[str, float]:
    """Return the figures at a single scale in a published result, in percent, by their labels."""
    figures = {}
    for label, _ in METRICS.values():
        if match := re.search(rf"{label} ([\d.]+)", result):
            figures[label] = float(match[1])
    return figures


def evaluations(name: str, configs: Path) -> list[Evaluation]:
    """Return all ways in which a checkpoint was evaluated: by which configs, at which scales.

    Args:
        name: name in :data:`PUBLISHED`.
        configs: folder of the configs, whose docstrings name their weights.

    Raises:
        ValueError: if there is no such checkpoint.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published checkpoint is called {name!r}{similar_names(name)}")
    record, found = PUBLISHED[name], []
    for path in sorted(configs.glob("*.py")):
        if name in read_weights(path):
            result = record.result if path.stem == record.config else read_published(path)
            found.append(Evaluation(name, path, False, result))
            if MANY_SCALES.search(result):
                found.append(Evaluation(name, path, True, result))
    return found


def reproduce(
    names: Sequence[str],
    *,
    configs: Path,
    page: Path,
    work_dir: str = "work_dirs/reproduce",
    file: Path | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Iterator[str]:
    """Get, verify and evaluate published checkpoints, and add a row for each result to a page.

    Args:
        names: names in :data:`PUBLISHED`.
        configs: folder of the configs.
        page: page in Markdown; created if there is none.
        work_dir: folder of the logs, with one folder for each evaluation.
        file: local file to use for the only name, instead of downloading it.
        limit: number of images to evaluate, the first ones; None for all.
        options: overrides of the configs, as of `--cfg-options`.
        dry_run: whether to say only what would be done.

    Yields:
        lines that say what was done.

    Raises:
        ValueError: if a name, the file, the data or the page cannot be used.
    """
    if file is not None and len(names) != 1:
        raise ValueError(f"--file is one checkpoint, got {len(names)} names: give one")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be a positive number of images, got {limit}")
    read_page(page)
    planned = [one for name in names for one in evaluations(name, configs)]
    if dry_run:
        for one in planned:
            yield from _say(one, file, {**PUBLISHED[one.name].options, **(options or {})})
        return
    for one in planned:
        cfg = read_config(_arguments(one, "", options or {}, work_dir))
        require_data(cfg, cfg.test_dataloader.dataset)
    require_writable_file(page)
    for one in planned:
        path = _verified(one.name, fetch(one.name if file is None else file))
        changes = {**PUBLISHED[one.name].options, **(options or {})}
        start = time.perf_counter()
        with _limited(one, changes, limit) as limited:
            metrics = test(_arguments(one, str(path), limited, work_dir))
        seconds = time.perf_counter() - start
        row = to_row(one, metrics, seconds, hash_file(path), limit, options or {})
        add_row(page, row)
        yield row


def to_row(
    one: Evaluation,
    metrics: Mapping[str, float],
    seconds: float,
    digest: str,
    limit: int | None,
    options: Mapping[str, Any],
) -> str:
    """Return the row of a result in Markdown.

    Args:
        one: what was evaluated.
        metrics: metrics of the host.
        seconds: duration of the evaluation.
        digest: SHA-256 of the file.
        limit: number of images if not all were evaluated.
        options: overrides of the config, with which it is another evaluation than the published.
    """
    ours = {label: metrics[key] * by for key, (label, by) in METRICS.items() if key in metrics}
    common = [label for label in ours if label in one.published]
    how = ["many scales, flips" if one.tta else "one scale"]
    how += [] if limit is None else [f"first {limit} images"]
    how += [f"`{key}={value}`" for key, value in options.items()]
    cells = [
        f"`{one.name}`",
        f"`{one.config.stem}`",
        ", ".join(how),
        _join(f"{label} {figure:g}" for label, figure in one.published.items()),
        _join(f"{label} {figure:.2f}" for label, figure in ours.items()),
        _join(f"{ours[label] - one.published[label]:+.2f}" for label in common),
        f"{seconds / 60:.1f} min",
        device_name("cuda" if torch.cuda.is_available() else "cpu"),
        datetime.now(timezone.utc).date().isoformat(),
        f"`{digest}`",
    ]
    return markdown_line(cells)


def read_page(page: Path) -> str:
    """Return the page of results, an empty one if there is none.

    Raises:
        ValueError: if the file is something else.
    """
    if not page.exists():
        return INTRODUCTION + NOTHING
    # what is no text is no page either
    text = page.read_text(errors="replace")
    if not text.endswith(NOTHING) and HEADER not in text:
        raise ValueError(f"{page} is no page of hb reproduce: choose another with --page")
    return text


def add_row(page: Path, row: str) -> None:
    """Add a row to the page of results, which is written whole or not at all."""
    write_whole(page, read_page(page).replace(NOTHING, HEADER) + row + "\n")


def _join(texts: Iterator[str]) -> str:
    return ", ".join(texts) or "-"


def _say(one: Evaluation, file: Path | None, options: Mapping[str, Any]) -> Iterator[str]:
    """Say what would be done for one evaluation."""
    record = PUBLISHED[one.name]
    where = file or ("no address works any more" if record.dead else " or ".join(record.addresses))
    command = ["hb", "test", one.config.stem, str(file or one.name)]
    command += ["--tta"] * one.tta
    if options:
        command += ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]
    yield f"{one.name}: {where}"
    yield f"  {shlex.join(command)}"
    figures = _join(f"{label} {figure:g}" for label, figure in one.published.items())
    yield f"  published: {figures}"


def _arguments(
    one: Evaluation, checkpoint: str, options: Mapping[str, Any], work_dir: str
) -> Namespace:
    """Return the arguments of tools/test.py."""
    return Namespace(
        config=str(one.config),
        checkpoint=checkpoint,
        tta=one.tta,
        cfg_options=dict(options),
        work_dir=f"{work_dir}/{one.config.stem}{'_tta' * one.tta}",
        **dict(mini=False, compile=False, show_dir=None, out=None, launcher="none", local_rank=0),
    )


def _verified(name: str, path: Path) -> Path:
    """Return the path of a file that has the hash of a published one, as far as it is known."""
    record = PUBLISHED[name]
    if record.sha256 and hash_file(path) != record.sha256:
        raise ValueError(
            f"{path} is not {name}: expected {record.size} bytes, SHA-256 {record.sha256}, got "
            f"{describe(path)}"
        )
    return path


@contextmanager
def _limited(
    one: Evaluation, options: Mapping[str, Any], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Add the options that restrict an evaluation to the first images."""
    cfg = read_config(_arguments(one, "", options, ""))
    if limit is None:
        yield dict(options)
    elif cfg.default_scope != "mmdet":
        yield {**options, "test_dataloader.dataset.indices": limit}
    else:
        # COCO's metric counts what is missing in all images of the file
        dataset = cfg.test_dataloader.dataset
        content = json.loads((Path(dataset.data_root) / dataset.ann_file).read_text())
        content["images"] = content["images"][:limit]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "first.json"
            path.write_text(json.dumps(content))
            keys = ("test_dataloader.dataset.ann_file", "test_evaluator.ann_file")
            yield {**options, **dict.fromkeys(keys, str(path))}

"""Page of a leaderboard in Markdown, its table in CSV, and its pictures."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from filelock import FileLock

from .board_entries import Entry, group
from .board_plots import Point, draw_board
from .board_sizes import size_notes
from .real_runs import Speed, commands, expected_cost, read_speeds
from .reproduce import published_figures
from .runs import FILE, Run, find_earlier
from .tables import markdown_table, write_whole
from .zoo_table import significant

PAGE, TABLE, BOARD = "leaderboard.md", "leaderboard.csv", "leaderboard.json"
# by figure of a result: title and unit of its column and picture
COSTS = {
    "params": ("parameters (M)", 1e6),
    "macs": ("FLOPs (G)", 1e9),
    "train_images_per_s": ("training (img/s)", 1),
    "train_seconds": ("training (min)", 60),
    "train_memory_mib": ("training memory (MiB)", 1),
    "latency_ms": ("inference (ms)", 1),
}
PLOTTED = ("params", "macs", "latency_ms")
# of these, what depends on the machine
TIMED = {"latency_ms"}
HEADER = ["config", "ours", "published", *(title for title, _ in COSTS.values())]
HEADER += ["measured on", "config's hash", "weights' hash", "seeds"]
# digits of hashes on the page; all of them are in the CSV
NUM_DIGITS = 8
MINI = """\
**The mini set is no benchmark of quality.** It is some hundred pictures of shapes that the project
draws itself, and a training on it takes minutes. The figures say that a network learns, not which
one is better. Published figures are those of the real data sets: nothing here can be compared with
them.
"""

SIZES = "Backbones whose smallest size was not run:"
COST = """\
A schedule of iterations, as for ADE20K, sees the images of its recipe, as below, only with the
number of GPUs that its commands name; twice as many GPUs see, and cost, twice as much. One of
epochs sees the same images with any number.

The cost is that of one device: images of the whole schedule, by images per second at the real size,
which were measured of the config itself, or else estimated by FLOPs from the fastest and the
slowest that were measured. Validation and waiting for data come on top. There is none (-) where the
number of images is not known, the config is not in the model zoo, or no config of its framework was
measured.
"""


def save_board(
    out: Path,
    runs: Sequence[Run],
    *,
    program: str,
    arguments: str,
    speeds: Sequence[Path],
    queued: bool = False,
) -> None:
    """Write what is on the page and in which order, for all processes that write the page.

    Finished runs of earlier commands stay on the page; with `queued`, which says that Slurm is at
    work for them, also those that are not finished.

    Raises:
        ValueError: if it is not known what they are, or a table of speeds cannot be read.
    """
    own = [run.folder.name for run in runs]
    earlier = [run.folder.name for run in find_earlier(out, runs)]
    if queued:
        last = json.loads((out / BOARD).read_text())
        earlier += [n for n in last["runs"] + last["earlier"] if n not in own + earlier]
    saved = dict(
        runs=own,
        earlier=earlier,
        program=program,
        command=f"{program} {arguments}",
        speeds=[speed._asdict() for speed in read_speeds(speeds)],
    )
    write_whole(out / BOARD, json.dumps(saved, indent=2) + "\n")


def write_board(out: Path) -> None:
    """Write page, table and pictures from the results that there are now."""
    # otherwise an older page of another process could come last
    with FileLock(out / ".page.lock"):
        board = json.loads((out / BOARD).read_text())
        for names in (board["runs"], board["earlier"]):
            # a run whose folder was removed leaves the page
            names[:] = [name for name in names if (out / name / FILE).is_file()]
        runs = [Run.load(out / name) for name in board["runs"] + board["earlier"]]
        write_whole(out / TABLE, to_csv(runs))
        groups = group(runs)
        pictures = _draw(groups, out)
        write_whole(out / PAGE, to_page(groups, board, pictures))


def to_page(groups: dict[str, list[Entry]], board: dict, pictures: Sequence[str]) -> str:
    """Return the page in Markdown.

    Args:
        groups: entries by the title of their method.
        board: what :func:`save_board` has saved.
        pictures: names of the pictures' files.
    """
    entries = [entry for members in groups.values() for entry in members]
    runs = [run for entry in entries for run in entry.runs]
    parts = ["# Leaderboard", _introduction(board, sum(run.result is not None for run in runs))]
    parts += [MINI.strip()] * any(run.mini for run in runs)
    for title, members in groups.items():
        table = markdown_table(HEADER, map(_entry_cells, members))
        parts.append(f"## {title}\n\n{table}")
    parts += [_caption(runs), *_notes(runs)]
    if sizes := size_notes(entries):
        parts += [SIZES, "\n".join(sizes)]
    if pictures:
        parts.append("## Accuracy against cost")
        parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    parts.append(_real_runs([entry.first for entry in entries], board))
    return "\n\n".join(parts) + "\n"


def _introduction(board: dict[str, Any], finished: int) -> str:
    own, earlier = len(board["runs"]), len(board["earlier"])
    text = (
        f"Written by the command below, which goes on where it was stopped. {finished} of "
        f"{own + earlier} runs are finished; [{TABLE}]({TABLE}) has all their figures."
    )
    if earlier:
        text += f" Earlier commands left {earlier} of them, which stay until their folders go."
    return f"{text}\n\n```bash\n{board['command']}\n```"


def _entry_cells(entry: Entry) -> list[str]:
    hashes = [one["weights"][:NUM_DIGITS] for one in entry.results]
    published = published_figures(entry.first.published)
    return [
        f"`{entry.first.name}`",
        entry.in_words(),
        ", ".join(f"{label} {figure:g}" for label, figure in published.items()) or "-",
        *(significant(entry.mean(name), unit) for name, (_, unit) in COSTS.items()),
        _place(entry) or "-",
        f"`{entry.first.digest[:NUM_DIGITS]}`",
        ", ".join(f"`{digest}`" for digest in hashes) or "-",
        ", ".join(str(run.seed) for run in entry.runs),
    ]


def _place(entry: Entry) -> str:
    return " or ".join(sorted({_machine(result) for result in entry.results}))


def _machine(result: dict[str, Any]) -> str:
    return f"{result['device']}, {_count(result['threads'], 'CPU thread')}"


def _caption(runs: Sequence[Run]) -> str:
    results = [run.result for run in runs if run.result is not None]
    places = {
        f"{_machine(one)}, {_count(one['processes'], 'training process', 'es')}" for one in results
    }
    sizes = {f"{height}×{width}" for height, width in (run.size for run in runs) if height}
    return (
        f"Measured on: {'; '.join(sorted(places)) or '-'}. Several seeds: mean ± standard "
        "deviation. FLOPs are multiply-accumulates for one image, as in the model zoo, of "
        f"{' or '.join(sorted(sizes))} pixels. Memory is the peak of the GPU, or without one that "
        "of the whole process. The minutes of a training include its validations, and are - of "
        "runs that did not record them. Inference is the "
        "time from one image to its final predictions. "
        "Runs at the same time slow each other down: compare speeds of rows only that were "
        "measured on the same device with equally many CPU threads. "
        "A config's hash is that of all its settings and, if there are several, of the number of "
        "training processes, without the seed; that of weights is of names and values, not of the "
        "file."
    )


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"


def _notes(runs: Sequence[Run]) -> list[str]:
    lines = [
        f"- `{run.name}`: not measured: {note}"
        for run in runs
        for note in (run.result or {}).get("notes", ())
    ]
    return ["\n".join(dict.fromkeys(lines))] if lines else []


def _real_runs(runs: Sequence[Run], board: dict[str, Any]) -> str:
    # of several settings of a config one
    readable = list({run.name: run for run in runs if run.scope is not None}.values())
    if not readable:
        return ""
    speeds = [Speed(**speed) for speed in board["speeds"]]
    lines = []
    for run in readable:
        cost = expected_cost(run, speeds)
        images = f"{run.images / 1e6:.3g} M" if run.images else "-"
        lines.append([f"`{run.name}`", images, str(cost) if cost else "-"])
    table = markdown_table(["config", "images in all", "expected cost"], lines)
    return (
        "## Real runs\n\nOn COCO, ADE20K and ImageNet (`COCO_ROOT`, `ADE_ROOT`, `IMAGENET_ROOT` "
        "and `SKETCH_ROOT` say where they are):\n\n"
        f"{commands(readable, board['program'])}\n{COST.strip()}\n\n{table}"
    )


def _draw(groups: dict[str, list[Entry]], out: Path) -> list[str]:
    """Draw the metric against each cost, and return the names of the pictures."""
    names = []
    for cost in PLOTTED:
        panels = {
            title: [point for entry in entries if (point := _point(entry, cost))]
            for title, entries in groups.items()
        }
        panels = {title: points for title, points in panels.items() if points}
        name = f"accuracy_{cost.partition('_')[0]}.png"
        if panels:
            names.append(name)
            draw_board(panels, COSTS[cost][0], out / name)
        else:
            (out / name).unlink(missing_ok=True)
    return names


def _point(entry: Entry, cost: str) -> Point | None:
    x, scores = entry.mean(cost), entry.scores()
    if not x or not scores:
        return None
    label, values = next(iter(scores.items()))
    name = entry.first.name.partition("_")[2] or entry.first.name
    deviation = stdev(values) if len(values) > 1 else 0.0
    place = _place(entry) if cost in TIMED else ""
    return Point(name, x / COSTS[cost][1], fmean(values), deviation, label, place)


def to_csv(runs: Iterable[Run]) -> str:
    """Return a line for each run, with all its metrics and figures."""
    rows = [_row(run) for run in runs]
    columns = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(run: Run) -> dict[str, Any]:
    result = dict(run.result or {})
    state = "finished" if run.result else "failed" if run.error else "not finished"
    return dict(
        config=run.name,
        seed=run.seed,
        state=state,
        error=run.error or "",
        published=run.published,
        config_sha256=run.digest,
        weights_sha256=result.pop("weights", ""),
        size=f"{run.size[0]}x{run.size[1]}",
        pretrained=run.flags["pretrained"],
        notes="; ".join(result.pop("notes", ())),
        **result.pop("metrics", {}),
        **result,
    )

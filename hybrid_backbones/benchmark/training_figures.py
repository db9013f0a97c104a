"""What a training of a run says of itself in its logs: speed, time and memory of all its parts."""

import json
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from statistics import median

from mmengine.config import Config

from .runs import Run
from .tables import write_whole

# how mmengine names the logs of a part of a training, when it begins
TIMESTAMP = "%Y%m%d_%H%M%S"
# seconds between two notes of the memory
INTERVAL = 30


def training_speed(run: Run, cfg: Config) -> float | None:
    """Return the images per second of the training, from the median step of its logs."""
    # the first line of each part warms up
    lines = [line for part in _training_parts(run) for line in part[1:] or part]
    seconds = [line["time"] for line in lines if line.get("time")]
    if not seconds:
        return None
    return cfg.train_dataloader.batch_size * run.processes / median(seconds)


def training_seconds(run: Run) -> float | None:
    """Return how long all parts of the training took, each from its name to its last logged line.

    Thus also a part counts that was killed.
    """
    seconds = [
        log.stat().st_mtime - datetime.strptime(log.stem, TIMESTAMP).timestamp()
        for log in run.work_dir.glob("*/*.log")
        if log.stem == log.parent.name
    ]
    return round(sum(seconds)) if seconds else None


def training_memory(run: Run) -> float | None:
    """Return the peak memory of the training in MiB: of the GPU, else of the whole process."""
    # each line has the peak since the one before
    lines = [line for part in _training_parts(run) for line in part]
    logged = [line["memory"] for line in lines if "memory" in line]
    path = run.folder / "memory.json"
    if logged or not path.is_file():
        return max(logged, default=None)
    return json.loads(path.read_text())


@contextmanager
def noting_memory(run: Run) -> Iterator[None]:
    """Note the peak memory of this process at the end and before, as SIGKILL may end it."""
    parts, ended = len(_training_logs(run)), threading.Event()

    def note() -> None:
        last = False
        while not last:
            last = ended.wait(INTERVAL)
            # not if there was nothing to train
            if len(_training_logs(run)) > parts:
                _note_memory(run)

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _note_memory(run: Run) -> None:
    """Write the peak memory of this process in MiB, unless that of an earlier part is higher."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # from KiB
    path = run.folder / "memory.json"
    earlier = json.loads(path.read_text()) if path.is_file() else 0.0
    write_whole(path, json.dumps(max(peak, earlier)))


def _training_logs(run: Run) -> list[Path]:
    """Return the files in which the parts of the training are logged."""
    return sorted(run.work_dir.glob("*/vis_data/scalars.json"))


def _training_parts(run: Run) -> list[list[dict]]:
    """Return the logged lines of training steps, of each part of the training."""
    parts = []
    for path in _training_logs(run):
        lines = []
        for text in path.read_text().splitlines():
            # a full disk can cut off a line
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
        parts.append([line for line in lines if "loss" in line])
    return parts

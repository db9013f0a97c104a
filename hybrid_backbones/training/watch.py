"""End a job of several processes where one hangs, with a line that names it.

A process waits for the others whenever it exchanges gradients or results, so all stand still when
one does. Each has a thread that tells the others, through the store that all share, how far it is,
and that it lives.
"""

import atexit
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import NamedTuple

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from torch.distributed import DistError, DistStoreError, Store

from .store import connect

KEY = "hybrid_backbones/watch/{}"
# key of the process that has said which one hangs
SAID = "hybrid_backbones/watch/said"


class Report(NamedTuple):
    """How far a process is, as it says itself.

    Args:
        step: number of places that it has passed.
        beat: number of reports of its thread.
        place: what it does, in words.
        name: its number and host.
    """

    step: int
    beat: int
    place: str
    name: str


# place of a process until its training begins
START = "the start"
NO_REPORT = Report(0, 0, START, "which has never reported")


@dataclass
class Watched:
    """What is known of a process: its last report, and when it last went on and reported."""

    report: Report
    moved: float
    lived: float

    def update(self, report: Report, now: float) -> None:
        """Take a new report."""
        if report.step != self.report.step:
            self.moved = now
        if report.beat != self.report.beat:
            self.lived = now
        self.report = report


def find_hung(watched: Sequence[Watched], now: float, patience: float) -> list[int] | None:
    """Find the processes for which the others wait.

    Args:
        watched: what is known of each process, by rank.
        now: present time in seconds.
        patience: seconds without progress of any process after which one has hung.

    Returns:
        ranks of processes that do not report, or else are behind the others; an empty list if all
        stand at the same place; None if any has gone on, or all report that they start.
    """
    if any(now - process.moved < patience for process in watched):
        return None
    steps = [process.report.step for process in watched]
    # a start is one place, however long it takes
    starts = max(steps) == 0
    silence = patience if starts else patience / 2
    silent = [rank for rank, process in enumerate(watched) if now - process.lived > silence]
    if silent or starts:
        return silent or None
    return [rank for rank, step in enumerate(steps) if step < max(steps)]


def describe(watched: Sequence[Watched], hung: Sequence[int], patience: float) -> str:
    """Return the line for the user; without a hung process, all stand at the same place."""
    longer = "env_cfg.dist_cfg.timeout=SECONDS waits longer"
    if not hung:
        place = watched[0].report.place
        return f"error: no process has gone on for {patience:g} s; all are in {place}; {longer}"
    names = ", ".join(
        f"rank {rank} ({watched[rank].report.name}) in {watched[rank].report.place}"
        for rank in hung
    )
    return f"error: the job hangs at {names}: no process has gone on for {patience:g} s; {longer}"


def read_reports(store: Store, keys: Sequence[str]) -> list[Report]:
    """Return the last report of each process, also of those that have not reported yet."""
    if store.check([*keys]):
        return [Report(*json.loads(text)) for text in store.multi_get([*keys])]
    # to get what is missing would wait for it
    found = [store.get(key) if store.check([key]) else None for key in keys]
    return [Report(*json.loads(text)) if text else NO_REPORT for text in found]


def end(line: str | None) -> None:
    """End this process, whose main thread may wait in a collective operation forever.

    Args:
        line: what the user reads before; None if another process says it.
    """
    if line is not None:
        sys.stderr.write(f"\n{line}\n")
        sys.stderr.flush()
    os._exit(1)


class WatchHook(Hook):
    """Hook that ends this process, as it does in all others, where a process hangs.

    Args:
        patience: seconds without progress of any process after which one has hung.
    """

    # before the other hooks of an iteration, which may hang themselves
    priority = "VERY_HIGH"

    def __init__(self, patience: float):
        self.patience, self.ended = patience, threading.Event()
        self.step, self.place, self.iteration = 0, START, 0
        self.name = f"process {os.getpid()} on {socket.gethostname()}"

    def start(self) -> None:
        """Begin to watch."""
        # a connection of its own, since the main thread may wait in the other one
        store = connect(timedelta(seconds=self.patience))
        threading.Thread(target=self._watch, args=[store], daemon=True).start()
        # before the store ends with the program
        atexit.register(self.ended.set)

    def before_run(self, runner) -> None:
        """Note that the start has ended."""
        runner.model.register_forward_hook(
            lambda *_: self._enter(f"the backward pass of iteration {self.iteration}")
        )
        self._enter("loading weights or the first batch")

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Note that the data have come."""
        self.iteration = runner.iter + 1
        self._enter(f"the forward pass of iteration {self.iteration}")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Note that an iteration has ended."""
        self._enter(f"loading or saving after iteration {runner.iter + 1}")

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Note that the data of an evaluation have come."""
        self._enter(f"batch {batch_idx + 1} of the evaluation")

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Note that a batch has been evaluated."""
        self._enter(f"loading or counting after batch {batch_idx + 1} of the evaluation")

    before_test_iter, after_test_iter = before_val_iter, after_val_iter

    def after_run(self, runner) -> None:
        """Watch no longer."""
        self.ended.set()

    def _enter(self, place: str) -> None:
        self.place, self.step = place, self.step + 1

    def _watch(self, store: Store) -> None:
        """Report and read the others' reports until a process hangs; runs in a thread."""
        own, processes = get_rank(), range(get_world_size())
        keys, beat = [KEY.format(rank) for rank in processes], 0
        watched: list[Watched] = []
        try:
            while not self.ended.wait(min(self.patience / 20, 10)):
                beat += 1
                store.set(keys[own], json.dumps([self.step, beat, self.place, self.name]))
                reports = read_reports(store, keys)
                now = time.monotonic()
                watched = watched or [Watched(report, now, now) for report in reports]
                for process, report in zip(watched, reports, strict=True):
                    process.update(report, now)
                hung = find_hung(watched, now, self.patience)
                if hung is not None:
                    # whoever ends first says why, since the others may fail as soon as it has ended
                    first = store.compare_set(SAID, "", str(own)) == str(own).encode()
                    end(describe(watched, hung, self.patience) if first else None)
        except DistStoreError:
            line = f"error: the store of the job, at rank 0, is silent for {self.patience:g} s"
            end(line if own == 1 else None)
        except DistError:
            # the process that keeps the store has ended, and this one soon will unless it hangs
            if not self.ended.wait(self.patience):
                end(f"error: {self.name} hangs in {self.place}: the process at rank 0 has ended")


@cache
def watch_processes(patience: float) -> WatchHook:
    """Return the watch of this process, which begins at the first call.

    Args:
        patience: seconds, as for :class:`WatchHook`.
    """
    watch = WatchHook(patience)
    watch.start()
    return watch

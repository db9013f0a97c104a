"""Stop a training by a signal of a job scheduler, without loss: save first, all processes at once.

The checkpoint `stopped.pth` may lie within an epoch; a resumed training goes on with the batch that
comes next, bit for bit. The next regular checkpoint removes it.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any

from mmengine.dist import barrier, get_world_size, is_distributed
from mmengine.hooks import Hook
from torch.distributed import DistError, HashStore
from torch.utils.data import BatchSampler, DataLoader

from .errors import Terminated
from .saving import STOPPED, prepare_to_save
from .store import connect

# what Slurm sends before it preempts or ends a job: by default, and by `--signal=USR1@SECONDS`
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# seconds that torchrun and Slurm usually grant after SIGTERM, as the commands here do
GRACE = 30
# how long to wait for the store
PATIENCE = timedelta(minutes=5)
# key of the iteration after which all processes stop, and of the signal
STOP = "hybrid_backbones/stop"
# key of a checkpoint's meta data: images of the unfinished epoch that all processes have trained on
IMAGES = "images_of_epoch"
# what the dataloaders of an epoch and of its rest have in common
SAME = ["num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn"]
SAME += ["multiprocessing_context", "generator", "prefetch_factor"]


class StopRequest:
    """Handler of signals that raises :class:`Terminated`, or keeps it while `deferred` is set."""

    def __init__(self):
        self.number: int | None = None
        self.deferred = False

    def __call__(self, number: int, frame) -> None:
        self.number = number
        if not self.deferred:
            raise Terminated(number)

    def raise_kept(self) -> None:
        """Defer signals no longer, and raise the one that came meanwhile, if one did."""
        self.deferred = False
        if self.number is not None:
            raise Terminated(self.number)


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Make the signals stop the program as Ctrl-C does, but for what a :class:`StopHook` defers.

    At the end they do what they did before.
    """
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        request.deferred = False
        _end_workers()
        for number, handler in before.items():
            signal.signal(number, handler)


def _shield_workers() -> None:
    """Block the signals in a fork of a training: it saves first, and ends its workers itself."""
    if isinstance(signal.getsignal(signal.SIGTERM), StopRequest):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


os.register_at_fork(after_in_child=_shield_workers)


def _end_workers() -> None:
    """End dataloader workers that are left, which nothing but SIGKILL does."""
    # PyTorch's handler would raise an error for each
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, before)


class RestOfEpoch:
    """Batches of an epoch but for the first, without loading those.

    Args:
        batches: batch sampler of a dataloader.
        skip: number of batches to leave out.
    """

    def __init__(self, batches: BatchSampler, skip: int):
        self.batches, self.skip = batches, skip
        self.batch_size, self.sampler = batches.batch_size, batches.sampler

    def __iter__(self) -> Iterator[list]:
        return islice(self.batches, self.skip, None)

    def __len__(self) -> int:
        return max(len(self.batches) - self.skip, 0)


class StopHook(Hook):
    """Hook that saves a checkpoint when a signal asks to stop, and then ends all processes.

    A signal to one process is enough. It announces the last iteration, which is the one after the
    next: on GPUs the others may have begun the next one, but end no further one before they have
    exchanged gradients with this process. During a validation nothing needs to be saved, and the
    signal acts at once.

    Args:
        request: handler of the signals.
        meta: meta data of the checkpoint from which the training continues.
        every: iterations for each update of the weights, between which nothing is saved.
    """

    # after the hooks that belong to an iteration, such as schedules and averages
    priority = "LOWEST"

    def __init__(self, request: StopRequest, meta: Mapping | None = None, every: int = 1):
        self.request, self.every = request, every
        self.num_images = (meta or {}).get(IMAGES, 0)
        self.loader: DataLoader | None = None

    def before_train(self, runner) -> None:
        """Defer signals from here on."""
        self.store = connect(PATIENCE) if is_distributed() else HashStore()
        self.request.deferred = True

    def after_train(self, runner) -> None:
        """Defer signals no longer."""
        self.request.deferred = False

    def before_val_epoch(self, runner) -> None:
        """Let signals act at once: a regular checkpoint precedes a validation."""
        self.request.raise_kept()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Defer signals again."""
        self.request.deferred = True

    def before_train_epoch(self, runner) -> None:
        """Leave out the batches of an epoch that have been trained before the stop."""
        self.skip = 0
        if self.num_images:
            self.loader = runner.train_dataloader
            self.skip = self.num_images // _images_per_step(self.loader)
            runner.train_loop.dataloader = _rest(self.loader, self.skip)
            self.num_images = 0

    def after_train_epoch(self, runner) -> None:
        """Return to whole epochs."""
        if self.loader is not None:
            runner.train_loop.dataloader, self.loader = self.loader, None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Announce the last iteration, or save and stop after it."""
        done = runner.iter + 1
        announced = self._announced(done)
        if announced is None:
            return
        last, number = announced
        if done == last:
            self._save(runner, batch_idx)
            # a launcher may kill the others as soon as the first ends
            barrier()
            raise Terminated(number)

    def _save(self, runner, batch_idx: int) -> None:
        """Save the checkpoint from which the training continues."""
        by_epoch = "max_epochs" in runner.cfg.train_cfg
        batches = self.skip + batch_idx + 1 if by_epoch else 0
        images = batches * _images_per_step(runner.train_dataloader)
        meta = {"epoch": runner.epoch, "iter": runner.iter + 1, IMAGES: images}
        prepare_to_save(runner)
        backend = dict(backend="atomic")
        runner.save_checkpoint(
            runner.work_dir, STOPPED, meta=meta, by_epoch=False, backend_args=backend
        )

    def _announced(self, done: int) -> tuple[int, int] | None:
        """Announce the last iteration if a signal has come; return it, if any, and the signal."""
        try:
            if self.request.number is not None:
                updates = done // self.every + (1 if get_world_size() == 1 else 2)
                last = updates * self.every
                # only the first announcement counts
                self.store.compare_set(STOP, "", f"{last} {self.request.number}")
            if not self.store.check([STOP]):
                return None
            last, number = map(int, self.store.get(STOP).split())
            return last, number
        except DistError:
            # the store ended with torchrun, by the same signal if one has come
            self.request.raise_kept()
            raise


def _images_per_step(loader: DataLoader) -> int:
    batches: Any = loader.batch_sampler
    return batches.batch_size * get_world_size()


def _rest(loader: DataLoader, skip: int) -> DataLoader:
    """Return a dataloader like another that leaves out its first batches."""
    same = {name: getattr(loader, name) for name in SAME}
    batches: Any = loader.batch_sampler
    return DataLoader(loader.dataset, batch_sampler=RestOfEpoch(batches, skip), **same)

"""Live progress bar on a terminal; log files keep mmengine's plain lines."""

import logging
import sys
from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@HOOKS.register_module()
class ProgressHook(Hook):
    """Progress bar with remaining time, loss, images per second and memory of a training.

    Shown only if the standard output is a terminal; console log lines then scroll above it.
    """

    priority = "LOW"

    def __init__(self):
        self.progress = None
        self.redirected = []

    def before_train(self, runner) -> None:
        """Start the bar at the first iteration of this run."""
        if not is_main_process() or sys.stdout is None or not sys.stdout.isatty():
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self.task = self.progress.add_task(
            "training", total=runner.max_iters, completed=runner.iter, status=""
        )
        self.progress.start()
        self._redirect_console(runner.logger)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advance by one iteration."""
        if self.progress is None:
            return
        # tools that only simulate a schedule pass no outputs
        status = _status(runner, outputs) if outputs else ""
        self.progress.update(self.task, completed=runner.iter + 1, status=status)

    def after_train(self, runner) -> None:
        """Stop the full bar, which stays on the screen."""
        self.close()

    def close(self) -> None:
        """Stop the bar and restore the console handlers of the log."""
        for handler, stream in self.redirected:
            handler.setStream(stream)
        self.redirected = []
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _redirect_console(self, logger: MMLogger) -> None:
        # rich has replaced the standard output by a proxy that prints above the bar
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not hasattr(handler, "baseFilename"):
                self.redirected.append((handler, handler.setStream(sys.stdout)))


def _status(runner, outputs: dict) -> str:
    scalars = runner.message_hub.log_scalars
    seconds = scalars["train/time"].mean(20) if "train/time" in scalars else 0
    images = runner.train_dataloader.batch_sampler.batch_size * get_world_size()
    rate = f"{images / seconds:.1f} img/s" if seconds else ""
    return f"loss {outputs['loss'].item():.4f}  {rate}  {_memory_gib():.1f} GiB"


def _memory_gib() -> float:
    """Return the peak GPU memory, or without a GPU the resident memory of the process, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**30

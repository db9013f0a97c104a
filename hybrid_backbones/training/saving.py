"""Checkpoints that are whole and good: written atomically, never with broken weights.

A kill, a full disk or a diverged loss leaves the last good checkpoint as it was.
"""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from ..checkpoints import trained_weights


@register_backend("atomic")
class AtomicLocalBackend(LocalBackend):
    """A local file appears under its name once all of it is on the disk, or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside the file, flush to the disk, rename into place."""
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        draft = filepath.with_name(f".{filepath.name}.{uuid.uuid4().hex}.part")
        try:
            with draft.open("wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(filepath)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """Save checkpoints as mmengine does, but refuse weights that are not finite."""

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        broken = [n for n, p in runner.model.named_parameters() if not torch.isfinite(p).all()]
        if broken:
            raise ValueError(
                f"the weights are no longer finite after iteration {runner.iter + 1} "
                f"({len(broken)} parameters, the first is {broken[0]}); no checkpoint was written. "
                + advice(runner.work_dir)
            )
        super()._save_checkpoint_with_step(runner, step, meta)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop the training after `patience` losses in a row that are NaN or infinite.

    A few are allowed, since mixed precision skips the step of an overflow and goes on.

    Args:
        patience: number of losses.
    """

    priority = "ABOVE_NORMAL"

    def __init__(self, patience: int = 5):
        self.patience = patience
        self.num_broken = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Count, and stop."""
        # tools that only look at a schedule train without outputs
        if not outputs:
            return
        loss = outputs["loss"]
        self.num_broken = 0 if torch.isfinite(loss).all() else self.num_broken + 1
        if self.num_broken >= self.patience:
            raise ValueError(
                f"the loss is {loss.item()} at iteration {runner.iter + 1}, the "
                f"{self.patience}th in a row. " + advice(runner.work_dir)
            )


class LoadFromHook(Hook):
    """Let ``load_from`` load all of a checkpoint or none of it, as tools/test.py does.

    Args:
        checkpoint: the name of the checkpoint, for the message.
    """

    # before the hooks that copy the weights, such as a moving average
    priority = "VERY_HIGH"

    def __init__(self, checkpoint: str):
        self.checkpoint = checkpoint

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Replace the weights by all entries of the model."""
        try:
            checkpoint["state_dict"] = trained_weights(runner.model, checkpoint)
        except ValueError as error:
            raise ValueError(
                f"load_from={self.checkpoint} is loaded whole or not at all (for its backbone "
                "alone, leave load_from out and set model.backbone.init_cfg=dict(type='Pretrained',"
                f" prefix='backbone', checkpoint=FILE)): {error}"
            ) from error


def require_elsewhere(checkpoint: str, work_dir: str | Path) -> None:
    """Check that a training does not begin from a file that it first puts aside.

    Raises:
        ValueError: where it does.
    """
    if Path(checkpoint).resolve().parent == Path(work_dir).resolve():
        raise ValueError(
            f"load_from={checkpoint} is in the work dir, where a new training moves the "
            "checkpoints of an earlier one: choose another with --work-dir"
        )


def remove_drafts(work_dir: str | Path) -> None:
    """Remove what :class:`AtomicLocalBackend` was writing when its process was killed."""
    for path in Path(work_dir).glob(".*.part"):
        if re.fullmatch(r"\..+\.[0-9a-f]{32}\.part", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def advice_for_a_full_disk(work_dir: str | Path) -> Iterator[None]:
    """Say how a training that ran out of space goes on.

    Raises:
        ValueError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        last = find_last_checkpoint(work_dir)
        kept = f"{last} is whole: free some space and use --resume"
        none = f"there is no checkpoint in {work_dir} yet: free some space and start again"
        raise ValueError(f"{error}; {kept if last else none}") from error


def advice(work_dir: str | Path) -> str:
    """Say what to do after a divergence, and which checkpoint is good."""
    last = find_last_checkpoint(work_dir)
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"Lower the learning rate or check the data; {kept}"


def find_last_checkpoint(work_dir: str | Path) -> Path | None:
    """Find the checkpoint of a work dir that was saved last, by epoch or iteration.

    mmengine's own pointer file is not consulted: a kill can leave it empty or pointing to a
    checkpoint that was never written.
    """
    steps = {}
    for path in Path(work_dir).glob("*.pth"):
        if match := re.fullmatch(r"(?:epoch|iter)_(\d+)\.pth", path.name):
            steps[int(match[1])] = path
    return steps[max(steps)] if steps else None

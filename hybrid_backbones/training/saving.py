"""Complete and finite checkpoints: written atomically, never with NaN or infinite weights.

A kill, a full disk or a diverged loss leaves the last good checkpoint unchanged.
"""

import errno
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from ..checkpoints import trained_weights
from .sharding import collect_state

# the checkpoint of a training that a signal has stopped, perhaps within an epoch
STOPPED = "stopped.pth"


@register_backend("atomic")
class AtomicLocalBackend(LocalBackend):
    """Local file backend that writes atomically: a file appears complete or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write to a temporary file in the same folder, flush it to the disk, and rename it."""
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
    """mmengine's checkpoint hook, which refuses weights that are not finite, and loses no file.

    mmengine removes earlier checkpoints before it writes the new one; here they stay until that is
    whole.
    """

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        prepare_to_save(runner)
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)
        if is_main_process():
            # the training has passed it
            (Path(runner.work_dir) / STOPPED).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner, metrics) -> None:
        _require_finite(runner)
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Remove files that are to be removed within the context at its end, if it has no error."""
        outdated: list[str] = []
        remove = self.file_backend.remove
        self.file_backend.remove = outdated.append
        try:
            yield
        finally:
            self.file_backend.remove = remove
        best = [getattr(self, "best_ckpt_path", None)]
        best += getattr(self, "best_ckpt_path_dict", {}).values()
        for path in outdated:
            # a file of the same name has taken the place of one
            if path not in (self.last_ckpt, *best):
                self.file_backend.remove(path)


def prepare_to_save(runner) -> None:
    """Check the weights, and collect the optimizer's state; all processes must call this.

    Raises:
        ValueError: if the weights are not finite, or the state cannot be saved.
    """
    _require_finite(runner)
    collect_state(runner.optim_wrapper)


def _require_finite(runner) -> None:
    """Check the parameters and the buffers, such as the statistics of batch normalisation."""
    weights = runner.model.state_dict().items()
    broken = [n for n, x in weights if x.is_floating_point() and not torch.isfinite(x).all()]
    if broken:
        raise ValueError(
            f"the weights are no longer finite after iteration {runner.iter + 1} "
            f"({len(broken)} entries, the first is {broken[0]}); no checkpoint was written. "
            + advice(runner.work_dir)
        )


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Hook that stops the training after consecutive losses that are NaN or infinite.

    A few are tolerated, since mixed precision skips the steps that overflow.

    Args:
        patience: number of consecutive losses that stops the training.
    """

    priority = "ABOVE_NORMAL"

    def __init__(self, patience: int = 5):
        self.patience = patience
        self.num_broken = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Count the consecutive losses that are not finite, and stop at `patience`."""
        # tools that only simulate a schedule pass no outputs
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
    """Hook that makes ``load_from`` load all of a checkpoint or fail, as tools/test.py does.

    Args:
        checkpoint: name of the checkpoint, for the error message.
        fresh_head: parts of the model to train anew, as for :func:`trained_weights`.
    """

    # runs before the hooks that copy the weights, such as a moving average
    priority = "VERY_HIGH"

    def __init__(self, checkpoint: str, fresh_head: Sequence[str] | None = None):
        self.checkpoint = checkpoint
        self.fresh_head = fresh_head

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Replace the state dict by one that has all entries of the model."""
        try:
            checkpoint["state_dict"] = trained_weights(runner.model, checkpoint, self.fresh_head)
        except ValueError as error:
            raise ValueError(
                f"load_from={self.checkpoint} is loaded completely or not at all (for its "
                "backbone only, leave load_from out and set model.backbone.init_cfg="
                f"dict(type='Pretrained', prefix='backbone', checkpoint=FILE)): {error}"
            ) from error


def require_elsewhere(checkpoint: str, work_dir: str | Path) -> None:
    """Check that `load_from` is not in the work dir, whose checkpoints are moved first.

    Raises:
        ValueError: if it is.
    """
    path = Path(checkpoint)
    # names and addresses of published checkpoints are no files here
    if path.is_file() and path.resolve().parent == Path(work_dir).resolve():
        raise ValueError(
            f"load_from={checkpoint} is in the work dir, where a new training moves the "
            "checkpoints of an earlier one: choose another with --work-dir"
        )


def remove_drafts(work_dir: str | Path) -> None:
    """Remove temporary files that a killed :class:`AtomicLocalBackend` has left."""
    for path in Path(work_dir).glob(".*.part"):
        if re.fullmatch(r"\..+\.[0-9a-f]{32}\.part", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def advice_for_a_full_disk(work_dir: str | Path) -> Iterator[None]:
    """Turn a full-disk error into advice on how to continue the training.

    Raises:
        ValueError: in place of an OSError that says that the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        last = find_last_checkpoint(work_dir)
        kept = f"{last} is complete: free some space and use --resume"
        none = f"there is no checkpoint in {work_dir} yet: free some space and start again"
        raise ValueError(f"{error}; {kept if last else none}") from error


def advice(work_dir: str | Path) -> str:
    """Return advice for a diverged training, with its last good checkpoint."""
    last = find_last_checkpoint(work_dir)
    kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"Lower the learning rate or check the data; {kept}"


def find_last_checkpoint(work_dir: str | Path) -> Path | None:
    """Find the last checkpoint of a work dir: of a stop, or by epoch or iteration.

    mmengine's own pointer file is ignored: a kill can leave it empty or pointing to a
    checkpoint that was never written.
    """
    stopped = Path(work_dir) / STOPPED
    if stopped.is_file():
        return stopped
    numbered = [path for path in Path(work_dir).glob("*.pth") if number_of(path) is not None]
    return max(numbered, key=lambda path: number_of(path) or 0, default=None)


def number_of(checkpoint: Path) -> int | None:
    """Return the epoch or iteration in the name of a checkpoint, None for other names."""
    match = re.fullmatch(r"(?:epoch|iter)_(\d+)\.pth", checkpoint.name)
    return int(match[1]) if match else None


def find_earlier(work_dir: str | Path, resumed: Path | None = None, done: int = 0) -> list[Path]:
    """Find checkpoints of earlier trainings in a work dir that a new training could overwrite.

    Args:
        work_dir: folder of the training.
        resumed: checkpoint from which the training continues; None starts a new training.
        done: epochs or iterations after which `resumed` was saved. If it is in the work dir,
            numbered checkpoints up to there and the best ones belong to this training.
    """
    found = [(path, number_of(path)) for path in Path(work_dir).glob("*.pth")]
    if resumed is not None and resumed.resolve().parent == Path(work_dir).resolve():
        # a stop comes after all others
        later = [p for p, _ in found if p.name == STOPPED != resumed.name]
        return later + [path for path, number in found if number is not None and number > done]
    own = ("best_", STOPPED)
    return [path for path, n in found if n is not None or path.name.startswith(own)]

"""Early stopping over interruptions: a resumed training counts on, and a stopped one has ended.

mmengine's EarlyStoppingHook saves nothing. A file of the work dir has what it had counted after
each validation; a checkpoint cannot, as it precedes the validation of the same iteration.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner

from ..mini.settings import dicts
from ..settings import type_name
from .saving import AtomicLocalBackend

FILE = "early_stopping.json"
STOPPED = "stopped"


def read_validations(checkpoint: Path, iteration: int) -> dict[str, dict]:
    """Return what was counted until a checkpoint was saved, by iteration, to all processes.

    Args:
        checkpoint: path of the checkpoint, in the work dir of its training.
        iteration: iterations after which it was saved.
    """
    path = checkpoint.with_name(FILE)
    found: list[dict] = [{}]
    if is_main_process() and path.is_file():
        found = [json.loads(path.read_text())]
    # all stop together, whatever they see of the folder
    broadcast_object_list(found)
    return {key: counted for key, counted in found[0].items() if int(key) <= iteration}


def has_stopped(cfg: Config, validations: Mapping[str, dict], iteration: int) -> bool:
    """Return whether a training that stops early has ended at an iteration."""
    hooks = dicts([cfg.get("default_hooks"), cfg.get("custom_hooks")])
    types = [type_name(hook.get("type")) for hook in hooks]
    return EarlyStoppingHook.__name__ in types and STOPPED in validations.get(str(iteration), {})


class KeepCountsHook(Hook):
    """Hook that keeps what each EarlyStoppingHook counts in a file of the work dir.

    Args:
        validations: what was counted before the training goes on, by iteration.
    """

    # after the hooks that count
    priority = "LOWEST"

    def __init__(self, validations: Mapping[str, dict]):
        self.validations = dict(validations)

    def before_train(self, runner: Runner) -> None:
        """Count on, and forget what came later and earlier trainings."""
        last = max(self.validations, key=int, default=None)
        counts = self.validations[last] if last else {}
        for hook in _counting(runner):
            if hook.monitor in counts:
                hook.wait_count, hook.best_score = counts[hook.monitor]
        self._write(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note what is counted after this validation."""
        if hooks := _counting(runner):
            counts = {hook.monitor: [hook.wait_count, float(hook.best_score)] for hook in hooks}
            stopped = {STOPPED: True} if runner.train_loop.stop_training else {}
            self.validations[str(runner.iter)] = counts | stopped
            self._write(runner)

    def _write(self, runner: Runner) -> None:
        path = Path(runner.work_dir) / FILE
        if is_main_process() and (self.validations or path.exists()):
            AtomicLocalBackend().put(json.dumps(self.validations).encode(), path)


def _counting(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]

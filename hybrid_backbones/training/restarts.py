"""Go on by itself where a launcher starts a killed training again: torchrun, or Slurm's requeue."""

import os
from argparse import Namespace
from pathlib import Path

from mmengine.dist import broadcast_object_list, master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from .saving import find_earlier, find_last_checkpoint
from .work_dir import is_first_process, put_aside

# environment variables with the number of restarts
RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
# file of a work dir that says that its checkpoints are those of the training that began last; it
# stays when that ends
BEGUN = ".begun"


def resume_after_restart(args: Namespace, work_dir: str | Path) -> bool:
    """Let a training that was started again go on from its last checkpoint, if it has one.

    Checkpoints of an earlier training do not count: a job can be killed before it has put them
    aside. Those of a finished one do, after which nothing is left to train: a process can be killed
    while it exits.

    Args:
        args: parsed command line, whose `resume` is set, and whose `fresh_head` is then done.
        work_dir: folder of the training.

    Returns:
        whether it goes on so.
    """
    found: list[Path | None] = [None]
    if is_first_process(args.launcher):
        begun = Path(work_dir) / BEGUN
        if not any(int(os.environ.get(name, 0)) for name in RESTART_COUNTS):
            begun.unlink(missing_ok=True)
        elif begun.exists():
            found = [find_last_checkpoint(work_dir)]
    # all do the same, whatever they see of the folder
    broadcast_object_list(found)
    if found[0] is not None:
        print_log(f"started again: resuming {found[0]}")
        args.resume, args.fresh_head = str(found[0]), None
    return found[0] is not None


def find_own_checkpoint(resume: str | None, work_dir: str | Path) -> Path | None:
    """Return the checkpoint from which a stopped training would go on, None if it has none yet.

    Args:
        resume: what `--resume` of the training was: a path, 'auto' or None.
        work_dir: folder of the training, in which an earlier one may have left checkpoints.
    """
    own = resume == "auto" or (Path(work_dir) / BEGUN).exists()
    last = find_last_checkpoint(work_dir) if own else None
    return last or (Path(resume) if resume and resume != "auto" else None)


class BeginHook(Hook):
    """Moves checkpoints of an earlier training aside, once this one is able to start.

    Args:
        work_dir: folder of the checkpoints.
        path, done: checkpoint from which the training goes on, and its progress.
    """

    priority = "LOWEST"

    def __init__(self, work_dir: Path, path: Path | None, done: int):
        self.work_dir, self.path, self.done = work_dir, path, done

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Move them, and note that the others are of this training; its weights are loaded."""
        put_aside(self.work_dir, find_earlier(self.work_dir, self.path, self.done))
        note_begin(self.work_dir)


def note_begin(work_dir: str | Path) -> None:
    """Note that the checkpoints of a work dir are those of the training that begins now."""
    (Path(work_dir) / BEGUN).touch()

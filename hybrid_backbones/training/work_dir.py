"""The folder of a training: may it be written to, by this training alone, and what is in it."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

LOCK = ".lock"
# where each launcher tells a process its rank
RANK_VARIABLES = dict(pytorch="RANK", slurm="SLURM_PROCID", mpi="OMPI_COMM_WORLD_RANK")


def is_first_process(launcher: str) -> bool:
    """Tell, before the processes of a training know of each other, whether this is the first."""
    return os.environ.get(RANK_VARIABLES.get(launcher, ""), "0") == "0"


def require_writable(work_dir: Path) -> None:
    """Make the work dir if it is not there.

    Raises:
        ValueError: where it cannot be written to.
    """
    probe = work_dir / f".probe-{os.getpid()}"
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write to the work dir {work_dir} ({error}): choose another with --work-dir"
        ) from error


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Keep a work dir for this process, so that no other training overwrites its checkpoints.

    The lock is the system's: it ends with the process, however that ends, and it reaches other
    hosts where the file system's locks do (as those of NFS do). The file says who has it.

    Raises:
        ValueError: where another process has it.
    """
    own, path = f"process {os.getpid()} on {socket.gethostname()}", work_dir / LOCK
    with path.open("a+") as file:
        file.seek(0)
        holder = file.read()
        try:
            # unlike flock's, this lock is not inherited by loading workers, which outlive a kill
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(
                f"{work_dir} is in use by another training, {holder or 'which just began'}: wait "
                "for its end or stop it, or choose another folder with --work-dir"
            ) from error
        except OSError as error:
            print_log(f"{work_dir} cannot be locked ({error}): run no other training in it")
        if holder:
            print_log(f"{work_dir} was in use by {holder}, which was killed; if not, stop it")
        file.truncate(0)
        file.write(own)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def put_aside(work_dir: Path) -> None:
    """Move the checkpoints of an earlier training away, where a new one would overwrite them."""
    if earlier := list(work_dir.glob("*.pth")):
        aside = work_dir / time.strftime("before_%Y%m%d_%H%M%S")
        aside.mkdir()
        for path in earlier:
            path.rename(aside / path.name)
        print_log(f"{len(earlier)} checkpoints of an earlier training moved to {aside}")

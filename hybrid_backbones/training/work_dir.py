"""Work dir of a training: write permission, exclusive lock, checkpoints of earlier trainings."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

LOCK = ".lock"
# environment variable with the rank of a process, by launcher
RANK_VARIABLES = dict(pytorch="RANK", slurm="SLURM_PROCID", mpi="OMPI_COMM_WORLD_RANK")


def is_first_process(launcher: str) -> bool:
    """Return whether this process has rank 0, before the process group is initialised."""
    return os.environ.get(RANK_VARIABLES.get(launcher, ""), "0") == "0"


def require_writable(work_dir: Path) -> None:
    """Create the work dir if it does not exist, and check that it is writable.

    Raises:
        ValueError: if it is not.
    """
    probe = work_dir / f".probe-{os.getpid()}"
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        # processes on several hosts can have one number
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to the work dir {work_dir} ({error}): choose another with --work-dir"
        ) from error


@contextmanager
def locked(work_dir: Path, user: str = "training", flag: str = "--work-dir") -> Iterator[None]:
    """Lock a work dir, so that no other training overwrites its checkpoints.

    The operating system releases the lock when the process ends, even if it is killed. It works
    across hosts if the file system supports locks (as NFS does). The lock file names the owner.

    Args:
        work_dir: folder to lock.
        user: what works in the folder, for messages.
        flag: flag that chooses the folder, for messages.

    Raises:
        ValueError: if another process owns the lock.
    """
    own, path = f"process {os.getpid()} on {socket.gethostname()}", work_dir / LOCK
    with path.open("a+") as file:
        file.seek(0)
        holder = file.read()
        try:
            # unlike flock, not inherited by dataloader workers, which can outlive a killed
            # training; but this process must not open and close the file again, which releases it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(
                f"{work_dir} is in use by another {user}, {holder or 'which just began'}: wait "
                f"for it to end, stop it, or choose another folder with {flag}"
            ) from error
        except OSError as error:
            print_log(f"{work_dir} cannot be locked ({error}): do not run another {user} in it")
        if holder:
            print_log(f"{work_dir} was in use by {holder}, probably killed; if not, stop it")
        file.truncate(0)
        file.write(own)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def put_aside(work_dir: Path, checkpoints: Sequence[Path]) -> None:
    """Move checkpoints of an earlier training to a subfolder before another overwrites them."""
    if checkpoints:
        aside = work_dir / time.strftime("before_%Y%m%d_%H%M%S")
        aside.mkdir()
        for path in checkpoints:
            path.rename(aside / path.name)
        print_log(f"{len(checkpoints)} checkpoints of an earlier training moved to {aside}")

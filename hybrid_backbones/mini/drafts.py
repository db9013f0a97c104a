"""Drafts: temporary files and folders, renamed to their final path when they are complete.

A killed process leaves its draft behind; the next process that draws into the folder removes it.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def draft_of(path: Path) -> Path:
    """Return a new hidden path in the same folder, and thus in the same file system."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


@contextmanager
def drawing(folder: Path, *names: str) -> Iterator[None]:
    """Remove abandoned drafts, and protect those of this process while the context is open.

    All processes that draw hold a shared lock on the folder, which the operating system releases
    when they end. Drafts are removed only under an exclusive lock, when no process is drawing. If
    the file system does not support locks, nothing is removed.

    Args:
        folder: folder of the drafts, which must exist.
        names: final names of the files or folders that are drawn into it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_drafts(folder, names)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _remove_drafts(folder: Path, names: tuple[str, ...]) -> None:
    draft = re.compile(rf"\.({'|'.join(map(re.escape, names))})-[0-9a-f]{{32}}")
    for path in folder.iterdir():
        if draft.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

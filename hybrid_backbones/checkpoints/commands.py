"""What tools/weights.py says: which weights are published, where one is, whether a file is one."""

from fnmatch import fnmatchcase
from pathlib import Path

from .fetch import describe, fetch, hash_file
from .files import read_weights
from .published import PUBLISHED, PublishedCheckpoint, similar_names

UNKNOWN = "no size and hash are known to compare with"


def list_published(pattern: str = "") -> list[str]:
    """Return a line for each published checkpoint whose name contains a pattern, such as ``*s*3x``.

    Raises:
        ValueError: if there is none.
    """
    names = [name for name in PUBLISHED if fnmatchcase(name, f"*{pattern}*")]
    if not names:
        raise ValueError(f"no published name contains {pattern!r}{similar_names(pattern)}")
    width = max(map(len, names))
    return [f"{name:{width}}  {_summary(PUBLISHED[name])}" for name in names]


def get(checkpoint: str) -> list[str]:
    """Download what :func:`fetch` takes; return what is known of it, and its path as the last line.

    Raises:
        ValueError: if it cannot be had.
    """
    path = fetch(checkpoint)
    record = PUBLISHED.get(checkpoint)
    known = "as expected" if record and record.sha256 else UNKNOWN
    lines = [f"{describe(path)} ({known})"]
    if record:
        lines = [f"{checkpoint}: {_summary(record)}", *lines]
    return [*lines, str(path)]


def verify(file: str | Path) -> list[str]:
    """Return which published checkpoint a file is; one of unknown hash is recognised by its name.

    Raises:
        ValueError: if the file cannot be read, or is not what its name says.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"no file at {str(file)!r}: check the path")
    same, named = match_file(path)
    for name in [] if same else named:
        record = PUBLISHED[name]
        if record.sha256:
            raise ValueError(
                f"{file} is not {name}: expected {record.size} bytes, SHA-256 {record.sha256}, "
                f"got {describe(path)}"
            )
    read_weights(path, "cpu")
    said = [f"{name}: size and hash are as expected" for name in same] or [
        f"{name}, by its name; {UNKNOWN}" for name in named
    ]
    return [f"{file}: readable, {describe(path)}", *(said or [f"not by name or hash: {UNKNOWN}"])]


def match_file(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of the published checkpoints that a file is: by its hash, and by its name.

    A file has the name of a published one as here, or as at one of its addresses.
    """
    digest = hash_file(path)
    same = [name for name, record in PUBLISHED.items() if record.sha256 == digest]
    return same, [name for name, record in PUBLISHED.items() if _is_named(path, name, record)]


def _is_named(path: Path, name: str, record: PublishedCheckpoint) -> bool:
    return path.stem == name or path.name in {
        address.rpartition("/")[2] for address in record.addresses if "://" in address
    }


def _summary(record: PublishedCheckpoint) -> str:
    options = " ".join(f"{key}={value}" for key, value in record.options.items())
    parts = (
        f"configs/{record.config}.py" + (f" --cfg-options {options}" if options else ""),
        record.result or "no result is published",
        f"licence: {record.licence or 'none is stated'}",
        record.notes,
    )
    return "; ".join(part for part in parts if part)

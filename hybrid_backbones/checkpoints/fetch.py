"""Local copies of checkpoints that are given by name, address or path.

Files of the Hugging Face hub are in its own cache (`HF_HOME`); others are in that of `torch.hub`
(`TORCH_HOME`), each in a folder of its own, keyed by the address.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, build_opener

import gdown
import huggingface_hub
import torch
from filelock import FileLock
from gdown.exceptions import DownloadError, FileURLRetrievalError
from huggingface_hub import constants as hub_settings
from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError
from mmengine.logging import print_log

from .files import read_weights
from .published import PUBLISHED, PublishedCheckpoint, similar_names

ADDRESS = re.compile(r"https?://|hf://|hf-hub:")
# a file, or the files of a repository in the order in which they are tried
HUB_FILE = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")
HUB_REPOSITORY = re.compile(r"hf-hub:([^/@]+/[^/@]+)(?:@(.+))?")
HUB_NAMES = ("model.safetensors", "pytorch_model.bin")
DRIVE_ID = re.compile(r"https?://(?:drive|docs)\.google\.com/.*(?:/d/|[?&]id=)([\w-]+)")
# eight digits of a SHA-256 at the end of a file name; digits alone are rather a date
CHECKSUM = re.compile(r"-(?!\d{8}\.)([0-9a-f]{8})\.\w+$")
# seconds without an answer after which a server counts as silent
TIMEOUT = 30
# of the web and the file system, of the hub and its storage, of Drive, and of our own checks
FAILURES = (OSError, HTTPError, EntryNotFoundError, RuntimeError, DownloadError, ValueError)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def fetch(checkpoint: str | Path) -> Path:
    """Return the path of a checkpoint, downloaded unless it is here already.

    A download is used only if it is a readable checkpoint and has the size and hash that are known
    of it; else nothing is kept. An interrupted one continues the next time where the server allows.

    Args:
        checkpoint: name of :data:`PUBLISHED`, path, ``https://…``, address of a Google Drive page,
            ``hf://ORG/REPO/FILE``, or ``hf-hub:ORG/REPO`` for its `model.safetensors` or else its
            `pytorch_model.bin`. A name counts before a file in the current folder.

    Raises:
        ValueError: if there is no such file, or none of its addresses serves it.
    """
    given = str(checkpoint)
    if given in PUBLISHED:
        return _fetch_published(given, PUBLISHED[given])
    if ADDRESS.match(given):
        return _cached(given) or _download(given)
    # unlike that of Path, this leaves the name of a user who does not exist
    path = Path(os.path.expanduser(given))
    # the path of an empty name is the current folder
    if not given or not path.exists():
        raise ValueError(f"no checkpoint at {given!r}: check the path{similar_names(given)}")
    return path


def describe(path: Path) -> str:
    """Return the size and the hash of a file."""
    return f"{path.stat().st_size} bytes, SHA-256 {hash_file(path)}"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fetch_published(name: str, record: PublishedCheckpoint) -> Path:
    """Return the local copy from the first address that serves a published checkpoint."""
    for address in record.addresses:
        if path := _cached(address):
            return path
    if record.dead:
        raise ValueError(
            f"all addresses of {name} are dead ({record.notes}): if you have kept the file, give "
            "its path instead of the name"
        )
    reasons = []
    for address in record.addresses:
        try:
            return _download(address)
        except ValueError as error:
            print_log(str(error), logger="current", level=logging.WARNING)
            reasons.append(str(error))
    raise ValueError(f"no address of {name} works: {'; '.join(reasons)}")


def _cached(address: str) -> Path | None:
    """Return the local copy of what an address has served before, or None if there is none."""
    with _failures(address):
        if place := HUB_FILE.fullmatch(address) or HUB_REPOSITORY.fullmatch(address):
            found = [
                huggingface_hub.try_to_load_from_cache(place[1], name, revision=place[2])
                for name in _hub_names(place)
            ]
            paths = [Path(path) for path in found if isinstance(path, str)]
        elif address.startswith("hf"):
            raise ValueError("expected hf://ORG/REPO/FILE or hf-hub:ORG/REPO")
        else:
            paths = [path for path in [_place(address)] if path.is_file()]
    for path in paths:
        try:
            _require_expected(path, address)
        except ValueError as error:
            print_log(str(error), logger="current", level=logging.WARNING)
            _discard(path)
        else:
            return path
    return None


def _download(address: str) -> Path:
    """Download the file of an address, and return its path if it is what is expected.

    Raises:
        ValueError: says in one line why there is none; nothing is left that could be taken for it.
    """
    if hub_settings.HF_HUB_OFFLINE:
        raise ValueError(f"{address} is not in the cache, and HF_HUB_OFFLINE forbids downloads")
    with _failures(address):
        place = HUB_FILE.fullmatch(address) or HUB_REPOSITORY.fullmatch(address)
        path = _download_from_hub(address, place) if place else _download_from_server(address)
    record = _record_of(address)
    licence = f"; licence of the weights: {record.licence or 'none is stated'}" if record else ""
    print_log(f"downloaded {address}: {describe(path)}{licence}", logger="current")
    return path


@contextmanager
def _failures(address: str) -> Iterator[None]:
    """Turn every failure of a client into one line."""
    try:
        yield
    except FAILURES as error:
        advice = ": free some space" if getattr(error, "errno", None) in FULL_DISK else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot download {address!r}: {reason}{advice}") from error


def _download_from_hub(address: str, place: re.Match) -> Path:
    """Download a file of the Hugging Face hub into its own cache."""
    names = _hub_names(place)
    for name in names:
        try:
            path = Path(huggingface_hub.hf_hub_download(place[1], name, revision=place[2]))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            if name == names[-1]:
                raise
            continue
        break
    try:
        _require_checkpoint(path, address)
    except ValueError:
        _discard(path)
        raise
    return path


def _hub_names(place: re.Match) -> tuple[str, ...]:
    """Return the names that the file of an address of the hub may have."""
    return (place[3],) if place.re is HUB_FILE else HUB_NAMES


def _discard(path: Path) -> None:
    """Delete a file, and what it links to in the cache of the hub."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def _place(address: str) -> Path:
    """Return where the file of an https address is in the cache, or will be."""
    drive = DRIVE_ID.match(address)
    name = f"{drive[1]}.pth" if drive else Path(urlparse(address).path).name
    name = "checkpoint" if name in ("", "..") else name
    # other files may have the same name
    return _cache() / sha256(address.encode()).hexdigest()[:16] / name


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download_from_server(address: str) -> Path:
    """Download a file of any server, or of Google Drive, into its own folder of the cache."""
    path = _place(address)
    (_cache() / ".locks").mkdir(parents=True, exist_ok=True)
    with FileLock(_cache() / ".locks" / f"{path.parent.name}.lock"):
        # another process may have been first
        if path.is_file():
            return path
        incoming = path.parent / ".incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        try:
            _continue_download(address, incoming / path.name)
            _require_checkpoint(incoming / path.name, address)
            # gdown leaves it readable by this user alone, and caches may be shared
            (incoming / path.name).chmod(path.parent.stat().st_mode & 0o666)
            os.replace(incoming / path.name, path)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or error.errno in FULL_DISK:
                shutil.rmtree(incoming)
            raise
        finally:
            # only if they are empty: the beginning of a file stays, to be continued
            for folder in (incoming, path.parent):
                with suppress(OSError):
                    folder.rmdir()
    return path


def _continue_download(address: str, path: Path) -> None:
    """Download into a file that appears when it is complete, from where an earlier one stopped."""
    begun = [*path.parent.glob("*.part")]
    sizes = [part.stat().st_size for part in begun]
    try:
        gdown.download(address, str(path), resume=True, timeout=TIMEOUT)
    except FileURLRetrievalError:
        raise
    except DownloadError as error:
        if not begun or [part.stat().st_size for part in begun] != sizes:
            raise
        if not _refuses_rest(address, sizes[0]):
            raise DownloadError(
                f"{error} Try again later, which continues {begun[0]}, or delete it to begin anew"
            ) from error
        for part in begun:
            part.unlink()
        gdown.download(address, str(path), resume=True, timeout=TIMEOUT)


def _refuses_rest(address: str, begun: int) -> bool:
    """Ask a server whether it will never send what follows the bytes that are here.

    Either it sends files only from their beginning, or nothing follows. A server that is busy, or
    breaks off, may do better the next time.
    """
    # in front of files on Google Drive are pages, and it does send parts of files
    if DRIVE_ID.match(address):
        return False
    request = Request(address, headers=dict(Range=f"bytes={begun}-"))
    try:
        # the proxies of now, as gdown's; urlopen keeps those of its first use
        with build_opener().open(request, timeout=TIMEOUT) as answer:
            return answer.status == HTTPStatus.OK
    except (OSError, HTTPException) as error:
        return getattr(error, "code", None) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def _require_checkpoint(path: Path, address: str) -> None:
    """Check that a download is what is expected and can be read.

    Raises:
        ValueError: says what is wrong with it.
    """
    _require_expected(path, address)
    read_weights(path, "cpu")


def _record_of(address: str) -> PublishedCheckpoint | None:
    return next((one for one in PUBLISHED.values() if address in one.addresses), None)


def _require_expected(path: Path, address: str) -> None:
    """Check the size and the hash of a file, as far as they are known.

    Raises:
        ValueError: if one of them differs.
    """
    record = _record_of(address)
    size = path.stat().st_size
    if record and record.size and size != record.size:
        raise ValueError(f"{address} has {size} bytes instead of {record.size}; deleted it")
    named = CHECKSUM.search(path.name)
    expected = (record and record.sha256) or (named[1] if named else "")
    if expected and not (found := hash_file(path)).startswith(expected):
        raise ValueError(f"{address} has the SHA-256 {found} instead of {expected}; deleted it")

"""Local copies of checkpoints that are given by name, address or path.

Files of the Hugging Face hub are in its own cache (`HF_HOME`); others are in that of `torch.hub`
(`TORCH_HOME`), each in a folder of its own, keyed by the address.
"""

import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlparse

import gdown
import huggingface_hub
import torch
from filelock import FileLock
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
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
        return _fetch_address(given)
    path = Path(given).expanduser()
    if not path.exists():
        raise ValueError(
            f"no checkpoint at {given!r}: check the path, or the name{similar_names(given)} "
            "(tools/weights.py list shows the published ones)"
        )
    return path

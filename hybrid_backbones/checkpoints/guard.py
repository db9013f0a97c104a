"""What mmengine's loading gains: our names and addresses always, and safety in our commands.

mmengine falls back to running the code in a checkpoint, for ``load_from``, ``resume`` and
``init_cfg=dict(type='Pretrained')``, and always runs it for URLs. Entries that do not fit are only
logged.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from .fetch import ADDRESS
from .files import GUARDS, RUN_CODE, read_file
from .load import load_pretrained
from .published import PUBLISHED
from .read import read_checkpoint

# PyTorch's environment variables, which child processes inherit
FORCED_SAFE, FORCED_UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def guard_loads(*, run_code: bool = False) -> Iterator[None]:
    """Make all libraries read checkpoints as :func:`read_checkpoint` does.

    Replaces `torch.load`, on which all loading relies, in this process and its forks; processes
    started otherwise inherit PyTorch's safe mode. mmengine still finds what its own addresses
    (``torchvision://`` and others) mean. ``init_cfg=dict(type='Pretrained')`` loads as
    :func:`load_pretrained` does.

    Args:
        run_code: whether code in checkpoints runs nevertheless, with all rights of the user; in
            this thread and, unless another guard in force forbids it, in those without their own.
    """

    def load(f, map_location=None, *args, **kwargs):
        return read_file(f, map_location)

    def load_checkpoint(cls, filename, map_location=None, logger="current"):
        if "://" in filename and not ADDRESS.match(filename):
            return hosts_own.__get__(None, cls)(filename, map_location, logger)
        return read_checkpoint(filename, map_location)

    if run_code:
        print_log(
            "code in checkpoints will be run and can do on this machine whatever you can: load "
            "only files that you would run as a program",
            logger="current",
            level=logging.WARNING,
        )
    before = torch.load, PretrainedInit.__call__
    hosts_own = vars(CheckpointLoader)["load_checkpoint"]
    environment = {name: os.environ.pop(name, None) for name in (FORCED_SAFE, FORCED_UNSAFE)}
    token = RUN_CODE.set(run_code)
    GUARDS.append(run_code)
    torch.load, PretrainedInit.__call__ = load, _init_pretrained
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    if not run_code:
        os.environ[FORCED_SAFE] = "1"
    try:
        yield
    finally:
        torch.load, PretrainedInit.__call__ = before
        CheckpointLoader.load_checkpoint = hosts_own
        GUARDS.remove(run_code)
        RUN_CODE.reset(token)
        os.environ.pop(FORCED_SAFE, None)
        os.environ.update({name: value for name, value in environment.items() if value})


def _init_pretrained(self: PretrainedInit, module: nn.Module) -> None:
    content = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
    try:
        load_pretrained(module, content, self.prefix)
    except ValueError as error:
        raise ValueError(f"init_cfg Pretrained with {self.checkpoint}: {error}") from error
    if hasattr(module, "_params_init_info"):
        update_init_info(module, init_info=self._get_init_info())


@CheckpointLoader.register_scheme(
    [
        rf"(?:{'|'.join(map(re.escape, PUBLISHED))})$",
        *("hf://", "hf-hub:", r"https://(?:drive|docs)\.google\.com/"),
    ],
    force=True,
)
def load_from_published(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint by one of the names and addresses that mmengine does not know."""
    return read_checkpoint(filename, map_location)

"""Checkpoints that the host loads, guarded for the time of a run.

mmengine runs the code in a checkpoint where it cannot be read without, for ``load_from``,
``resume`` and ``init_cfg=dict(type='Pretrained')`` alike, and always where a URL is loaded. What
does not fit it only logs.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from .load import load_pretrained
from .read import RUN_CODE, read_file

# PyTorch's own switches, which processes that are started inherit
FORCED_SAFE, FORCED_UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def guard_loads(*, run_code: bool = False) -> Iterator[None]:
    """Read each checkpoint as :func:`read_checkpoint` does, whichever library asks for it.

    All loading ends in `torch.load`, which is replaced here, in this process and those that it
    forks or starts. ``init_cfg=dict(type='Pretrained')`` loads as :func:`load_pretrained` does.

    Args:
        run_code: run the code in checkpoints all the same, which can do whatever the user can.
    """

    def load(f, map_location=None, *args, **kwargs):
        return read_file(f, map_location)

    if run_code:
        print_log(
            "checkpoints are read with their code, which can do on this machine whatever you can: "
            "only for files that you would run as a program",
            logger="current",
            level=logging.WARNING,
        )
    before = torch.load, PretrainedInit.__call__
    environment = {name: os.environ.pop(name, None) for name in (FORCED_SAFE, FORCED_UNSAFE)}
    token = RUN_CODE.set(run_code)
    torch.load, PretrainedInit.__call__ = load, _init_pretrained
    if not run_code:
        os.environ[FORCED_SAFE] = "1"
    try:
        yield
    finally:
        torch.load, PretrainedInit.__call__ = before
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

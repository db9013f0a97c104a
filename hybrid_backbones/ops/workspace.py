"""Sizes of the chunks in which operators compute: small on CPUs, for their caches."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_as_on_gpu = ContextVar("as_on_gpu", default=False)


def fits_caches(device: torch.device) -> bool:
    """Return whether chunks should fit the caches of a CPU, rather than be few for a GPU."""
    # `torch.compile` cannot trace the variable
    return device.type == "cpu" and (torch.compiler.is_compiling() or not _as_on_gpu.get())


@contextmanager
def chunks_as_on_gpu() -> Iterator[None]:
    """Compute in the chunks of a GPU, so that operations can be counted without one."""
    token = _as_on_gpu.set(True)
    try:
        yield
    finally:
        _as_on_gpu.reset(token)

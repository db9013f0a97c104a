"""Choices that depend on the device: what a CPU computes in caches, a GPU does in few launches."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_as_on_gpu = ContextVar("as_on_gpu", default=False)


def stands_for_gpu(device: torch.device) -> bool:
    """Return whether operators on this CPU choose what they would on a GPU; see `as_on_gpu`."""
    # `torch.compile` cannot trace the variable
    return device.type == "cpu" and not torch.compiler.is_compiling() and _as_on_gpu.get()


def fits_caches(device: torch.device) -> bool:
    """Return whether chunks should fit the caches of a CPU, rather than be few for a GPU."""
    return device.type == "cpu" and not stands_for_gpu(device)


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Let operators on a CPU choose the implementations and chunks that they choose on a GPU.

    Their operations can then be counted without one. Triton kernels are chosen, too, and fail
    unless their operators, ``torch.ops.hybrid_backbones``, are intercepted.
    """
    token = _as_on_gpu.set(True)
    try:
        yield
    finally:
        _as_on_gpu.reset(token)

"""Choice between the implementations of an operator."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..recompute import is_in_torch_func
from . import triton_support
from .fastest import fastest_on_gpu

logger = logging.getLogger(__name__)


def is_exporting() -> bool:
    """Return whether a call is recorded by `torch.export` or an exporter to ONNX.

    The recorded graph runs without Python and gradients, and should suit other runtimes.
    """
    # Dynamo says so for `torch.compile`, too
    if torch.compiler.is_dynamo_compiling():
        return False
    # PyTorch 2.6 does not say so of `torch.export`
    in_export = getattr(torch.compiler, "is_exporting", None)
    return torch.onnx.is_in_onnx_export() or (in_export is not None and in_export())


def choose_backend(
    operator: str,
    backend: str | None,
    portable: str,
    tensors: Sequence[Tensor],
    obstacles: Mapping[str, Callable[[], str | None]],
    *,
    exported: str,
) -> str:
    """Choose the implementation of an operator that also has some for GPUs.

    Args:
        operator: name of the operator, for the log and the table of the fastest.
        backend: name that the caller gave, or None for the fastest implementation.
        portable: name of the fastest implementation that runs everywhere.
        tensors: query, key and value.
        obstacles: for each implementation that does not run everywhere, a function that returns why
            it cannot run, or None if it can.
        exported: name of the implementation for exported and traced graphs, without a loop whose
            length depends on sizes.

    Raises:
        ValueError: if the implementation is named and cannot run.
    """
    if backend is not None:
        obstacle = obstacles[backend]() if backend in obstacles else None
        if obstacle is not None:
            raise ValueError(f"{backend=} cannot run: {obstacle}")
        return backend
    if is_exporting() or torch.jit.is_tracing():
        return exported
    chosen, reason = _fastest(operator, portable, tensors)
    obstacle = obstacles[chosen]() if chosen in obstacles else None
    if obstacle is not None:
        chosen, reason = portable, obstacle
    log_choice(operator, chosen, reason)
    return chosen


def _fastest(operator: str, portable: str, tensors: Sequence[Tensor]) -> tuple[str, str]:
    """Return the measured fastest implementation, or else the portable one, and the reason."""
    device, dtype = tensors[0].device, tensors[0].dtype
    if is_in_torch_func():
        return portable, "torch.func does not transform kernels"
    if not triton_support.is_fast(device):
        return portable, f"Triton kernels are not the default on {device.type}"
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    fastest = fastest_on_gpu(operator, dtype, differentiates)
    if fastest is None:
        return portable, f"others were not measured in {dtype}"
    return fastest, f"it was measured to be the fastest on {device.type}"


def log_choice(operator: str, implementation: str, reason: str) -> None:
    """Log which implementation computes an operator, once for each reason, at debug level."""
    # logging would break the graph of compiled code
    if not torch.compiler.is_compiling():
        _log_once(operator, implementation, reason)


@lru_cache
def _log_once(operator: str, implementation: str, reason: str) -> None:
    logger.debug("%s runs as %r: %s", operator, implementation, reason)

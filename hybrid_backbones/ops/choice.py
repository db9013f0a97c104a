"""Choice between the implementations of an operator."""

import logging
from collections.abc import Callable
from functools import lru_cache

import torch

from . import triton_support

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
    device: torch.device,
    unsupported_reason: Callable[[], str | None],
    *,
    exported: str,
) -> str:
    """Choose the implementation of an operator that also has Triton kernels.

    Args:
        operator: name of the operator, for the log.
        backend: name that the caller gave, or None for the fastest implementation.
        portable: name of the fastest implementation without Triton.
        device: device of the tensors.
        unsupported_reason: function that returns why the kernels cannot run, or None if they can.
        exported: name of the implementation for exported and traced graphs, without a loop whose
            length depends on sizes.

    Raises:
        ValueError: if the kernels are named and cannot run.
    """
    if backend == "triton" and (reason := unsupported_reason()) is not None:
        raise ValueError(f"{backend=} cannot run: {reason}")
    if backend is not None:
        return backend
    if is_exporting() or torch.jit.is_tracing():
        return exported
    if triton_support.is_fast(device):
        reason = unsupported_reason()
    else:
        reason = f"Triton kernels are not the default on {device.type}"
    backend = "triton" if reason is None else portable
    reason = reason or f"compiled kernels run on {device.type}"
    log_choice(operator, backend, reason)
    return backend


def log_choice(operator: str, implementation: str, reason: str) -> None:
    """Log which implementation computes an operator, once for each reason, at debug level."""
    # logging would break the graph of compiled code
    if not torch.compiler.is_compiling():
        _log_once(operator, implementation, reason)


@lru_cache
def _log_once(operator: str, implementation: str, reason: str) -> None:
    logger.debug("%s runs as %r: %s", operator, implementation, reason)

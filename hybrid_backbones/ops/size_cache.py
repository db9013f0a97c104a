"""Cache for tensors that depend on sizes only, such as masks and indices."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch

from ..recompute import is_in_torch_func

# entries per function: enough for all stages at several image sizes, as in multi-scale training
MAX_TABLES = 32


def cached_by_size(make: Callable) -> Callable:
    """Cache the results of ``make(*sizes, device=...)`` for the last `MAX_TABLES` arguments.

    All callers share one result, in training and inference mode, and must not modify it. The cache
    is bypassed while a call is traced or captured (``torch.compile``, export, fake tensors, CUDA
    graphs) or transformed (``torch.func``), because tensors of a trace must not outlive it.

    Args:
        make: function of hashable arguments that returns tensors on `device`.

    Returns:
        Cached function with the signature ``(*sizes, device)``.
    """

    @lru_cache(MAX_TABLES)
    def keep(stream: Any, device: torch.device, *sizes: Any) -> Any:
        # inference-mode tensors cannot be saved for a backward pass
        with torch.inference_mode(False):
            return make(*sizes, device=device)

    @wraps(make)
    def look_up(*sizes: Any, device: torch.device) -> Any:
        if is_traced(device) or is_in_torch_func():
            return make(*sizes, device=device)
        # keyed by stream: another one might read the result before this one has written it
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        return keep(stream, device, *sizes)

    return look_up


def is_traced(device: torch.device) -> bool:
    """Return whether calls on `device` are being traced or captured."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
        # tracing modes such as FakeTensorMode change the type of new tensors
        or type(torch.empty(0)) is not torch.Tensor
    )

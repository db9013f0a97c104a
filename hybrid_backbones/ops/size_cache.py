"""Tables that depend on sizes alone, such as masks and indices: made once, then kept."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch

# of the tables of one kind: stages of a few sizes of images, also where training varies these
MAX_TABLES = 32


def cached_by_size(make: Callable) -> Callable:
    """Keep what ``make(*sizes, device=...)`` returns for the last `MAX_TABLES` sizes and devices.

    All callers share one result and must not write to it. It serves inference and training alike,
    whichever asked first. While a call is traced or captured (``torch.compile``, export, fake
    tensors, CUDA graphs) tables are made anew, because what belongs to a trace must not outlive it.

    Args:
        make: a function of hashable arguments that returns tensors on `device`.
    """

    @lru_cache(MAX_TABLES)
    def keep(stream: Any, device: torch.device, *sizes: Any) -> Any:
        # tensors of inference mode could not be saved for a backward pass
        with torch.inference_mode(False):
            return make(*sizes, device=device)

    @wraps(make)
    def look_up(*sizes: Any, device: torch.device) -> Any:
        if is_traced(device):
            return make(*sizes, device=device)
        # another stream might read a table before this one has written it
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        return keep(stream, device, *sizes)

    return look_up


def is_traced(device: torch.device) -> bool:
    """Tell whether calls are traced or captured now, rather than computed."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
        # the mode that stands for a trace decides what a new tensor is
        or type(torch.empty(0)) is not torch.Tensor
    )

"""Public function of routed attention: argument checks and choice of backend."""

import torch
from torch import Tensor

from ..triton_support import is_fast
from .chunked import routed_attention_chunked
from .reference import routed_attention_reference
from .triton import routed_attention_triton, unsupported_reason

# all except 'triton' run on any device and in any floating-point dtype
BACKENDS = {
    "triton": routed_attention_triton,
    "chunked": routed_attention_chunked,
    "reference": routed_attention_reference,
}


def routed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    routes: Tensor,
    num_heads: int,
    *,
    backend: str | None = None,
) -> Tensor:
    """Attend from the tokens of each region to the tokens of the k regions it is routed to.

    In each head, with ``N(i)`` the tokens of the regions ``routes[i]``::

        out(i, t) = Σ_n softmax_n(query(i, t) · key(n) / √C) value(n),   n ∈ N(i)

    As published, the scale uses the number of all channels, not that of one head.
    ``backend='reference'`` gathers the keys and values and computes exactly this definition.

    The backward pass of ``'triton'`` uses the output: do not modify it in place before then.

    Args:
        query: queries, ``(B, R', n', C)``, R' regions of n' tokens, channels head-major.
        key: keys, ``(B, R, n, C)``, R regions of n tokens.
        value: values, ``(B, R, n, C)``.
        routes: regions of each query region, ``(B, R', k)``, distinct integers from 0 to R - 1.
        num_heads: number of attention heads h, must divide C.
        backend: ``'triton'`` (on a CUDA device), ``'chunked'`` or ``'reference'``; None selects
            the fastest that can run.

    Returns:
        Weighted sums of values, ``(B, R', n', C)``, in the dtype of `query`.

    Raises:
        ValueError: if a shape, dtype or setting is invalid, or the named backend cannot run.
    """
    validate_backend(backend)
    _validate_tensors(query, key, value, routes, num_heads)
    obstacle = unsupported_reason(query, num_heads)
    if backend is None:
        backend = "triton" if obstacle is None and is_fast(query.device) else "chunked"
    elif backend == "triton" and obstacle is not None:
        raise ValueError(f"{backend=} cannot run: {obstacle}")
    return BACKENDS[backend](query, key, value, routes, num_heads)


def validate_backend(backend: str | None) -> None:
    """Validate the name of a backend; layers call this at construction.

    Raises:
        ValueError: if no backend has this name.
    """
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {backend!r}")


def _validate_tensors(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> None:
    if key.ndim != 4 or key.shape != value.shape:
        raise ValueError(
            "key and value must have the same shape (B, R, n, C), "
            f"got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    batch, num_regions, _, channels = key.shape
    if query.ndim != 4 or query.shape[0] != batch or query.shape[3] != channels:
        raise ValueError(
            f"query must have shape ({batch}, R', n', {channels}) for key of shape "
            f"{tuple(key.shape)}, got {tuple(query.shape)}"
        )
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"num_heads must divide the channels, got {num_heads=}, {channels=}")
    if routes.ndim != 3 or routes.shape[:2] != query.shape[:2] or routes.dtype != torch.int64:
        raise ValueError(
            f"routes must be int64 integers of shape ({batch}, {query.shape[1]}, k), "
            f"got {routes.dtype} of shape {tuple(routes.shape)}"
        )
    if not 1 <= routes.shape[2] <= num_regions:
        raise ValueError(
            f"each query region must have 1 to {num_regions} regions, got {routes.shape[2]}"
        )
    if not query.is_floating_point() or not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            "query, key and value must have the same floating-point dtype, "
            f"got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    devices = [x.device for x in (query, key, value, routes)]
    if len(set(devices)) > 1:
        raise ValueError(
            f"all tensors must be on the same device, got {', '.join(map(str, devices))}"
        )

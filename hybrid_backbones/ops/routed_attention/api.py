"""Public function of routed attention: argument checks and choice of backend."""

import torch
from torch import Tensor

from ...layers import require_divides
from .. import flex
from ..choice import choose_backend
from ..validation import (
    require_backend,
    require_same_device,
    require_same_dtype,
    require_same_shape,
)
from .chunked import routed_attention_chunked
from .exported import routed_attention_exported
from .flex import routed_attention_flex
from .reference import routed_attention_reference
from .triton import routed_attention_triton, unsupported_reason

# all except 'triton' and 'flex' run on any device and in any floating-point dtype
BACKENDS = {
    "triton": routed_attention_triton,
    "chunked": routed_attention_chunked,
    "flex": routed_attention_flex,
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

    In each head, with j over the tokens of the regions ``routes[i]``::

        out(i, t) = Σ_j softmax_j(query(i, t) · key(j) / √C) value(j)

    As published, the scale uses the number of all channels, not that of one head.
    ``backend='reference'`` gathers the keys and values and computes exactly this definition.

    The backward pass of ``'triton'`` uses the output: do not modify it in place before then.

    Args:
        query: queries, ``(B, R', T', C)``, R' regions of T' tokens, channels head-major.
        key: keys, ``(B, R, T, C)``, R regions of T tokens.
        value: values, ``(B, R, T, C)``.
        routes: regions of each query region, ``(B, R', k)``, distinct integers from 0 to R - 1.
        num_heads: number of attention heads h; must divide C.
        backend: ``'triton'`` (on a CUDA device), ``'chunked'``, ``'flex'`` (PyTorch's
            FlexAttention, on a CUDA device; on a CPU it has no gradients and computes all logits)
            or ``'reference'``; None selects the measured fastest that can run.

    Returns:
        Weighted sums of values, ``(B, R', T', C)``, in the dtype of `query`.

    Raises:
        ValueError: if a shape, dtype or setting is invalid, or the named backend cannot run.
    """
    validate_backend(backend)
    _validate_tensors(query, key, value, routes, num_heads)
    backend = choose_backend(
        "routed_attention",
        backend,
        "chunked",
        (query, key, value),
        dict(
            triton=lambda: unsupported_reason(query, num_heads),
            flex=lambda: flex.unsupported_reason(
                query, key, value, head_dim=query.shape[3] // num_heads
            ),
        ),
        exported="exported",
    )
    if backend == "exported":
        return routed_attention_exported(query, key, value, routes, num_heads)
    return BACKENDS[backend](query, key, value, routes, num_heads)


def validate_backend(backend: str | None) -> None:
    """Validate the name of a backend; layers call this at construction.

    Raises:
        ValueError: if no backend has this name.
    """
    require_backend(backend, BACKENDS)


def _validate_tensors(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> None:
    require_same_shape("(B, R, T, C)", key=key, value=value)
    batch, num_regions, _, channels = key.shape
    if query.ndim != 4 or query.shape[0] != batch or query.shape[3] != channels:
        raise ValueError(
            f"query must have shape ({batch}, R', T', {channels}) for key of shape "
            f"{tuple(key.shape)}, got {tuple(query.shape)}"
        )
    if min(*query.shape[1:], *key.shape[1:]) < 1:
        raise ValueError(
            f"only the batch may be empty, got query of shape {tuple(query.shape)} and key of "
            f"shape {tuple(key.shape)}"
        )
    require_divides(num_heads=num_heads, channels=channels)
    if routes.ndim != 3 or routes.shape[:2] != query.shape[:2] or routes.dtype != torch.int64:
        raise ValueError(
            f"routes must be int64 integers of shape ({batch}, {query.shape[1]}, k), "
            f"got {routes.dtype} of shape {tuple(routes.shape)}"
        )
    if not 1 <= routes.shape[2] <= num_regions:
        raise ValueError(
            f"each query region must have 1 to {num_regions} regions, got {routes.shape[2]}"
        )
    require_same_dtype(query=query, key=key, value=value)
    require_same_device(query=query, key=key, value=value, routes=routes)

"""Routed attention in chunks of regions, without gathering all keys and values at once.

Each chunk of regions gathers its keys and values, attends, and releases them. The backward pass
gathers them again, recomputes the weights and adds the gradients into the rows of one buffer; the
gradient of an ordinary gather would be a dense tensor of R times the keys and values.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import join_heads, split_heads
from ..custom_gradient import with_gradient
from ..device_choices import fits_caches
from ..size_cache import is_traced
from ..softmax_attention import attention_gradients

# a chunk may hold half as many values as query, or this many if query is small: a CPU is fastest
# within its caches, and on a GPU small chunks mean many kernel launches
MIN_WORKSPACE = 2**23
MIN_WORKSPACE_ON_CPU = 2**20


def routed_attention_chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    routes: Tensor,
    num_heads: int,
    *,
    chunk: int | None = None,
) -> Tensor:
    """Compute :func:`routed_attention_reference` in chunks.

    Args:
        query, key, value, routes, num_heads: as in :func:`routed_attention`.
        chunk: number of query regions of the whole batch that are computed at a time; None derives
            it from the size of `query`.
    """
    batch, num_regions, num_tokens, channels = key.shape
    num_queries, num_keys = routes.shape[1], routes.shape[2] * num_tokens
    if chunk is None:
        least = MIN_WORKSPACE_ON_CPU if fits_caches(query.device) else MIN_WORKSPACE
        # in the backward pass: keys, values and their gradients; weights and their gradients
        values = num_keys * (4 * channels + 2 * num_heads * query.shape[2])
        chunk = max(1, max(query.numel() // 2, least) // values)
    # number the regions through the whole batch
    first = torch.arange(batch, device=routes.device)[:, None, None] * num_regions
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    routes = (routes + first).flatten(0, 1)  # (B·R', k)
    inputs = query, key, value, routes, num_heads, chunk
    out = with_gradient(_attend_in_chunks, _differentiate_in_chunks, *inputs)
    return out.unflatten(0, (batch, num_queries))


def _attend_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int, chunk: int
) -> Tensor:
    """Attend from query ``(R', T', C)`` to regions ``(R', k)`` of key and value ``(R, T, C)``."""
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    for part in _chunks(query, chunk):
        out[part] = _attend(query[part], key, value, routes[part], num_heads)
    return out


def _differentiate_in_chunks(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    routes: Tensor,
    num_heads: int,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    # many regions add to one: a sum in half precision would lose small terms
    exact = torch.promote_types(query.dtype, torch.float32)
    grad_query = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    grad_key, grad_value = (
        torch.zeros(x.shape, dtype=exact, device=x.device) for x in (key, value)
    )
    for part in _chunks(query, chunk):
        to = routes[part]
        grad_query[part], *gathered = _differentiate(
            grad[part], query[part], key, value, to, num_heads
        )
        for total, x in zip((grad_key, grad_value), gathered, strict=True):
            regions = x.unflatten(1, (to.shape[1], -1)).flatten(0, 1)  # (chunk·k, T, C)
            total.index_add_(0, to.flatten(), regions)
    return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype)


def _chunks(query: Tensor, chunk: int) -> Iterator[slice]:
    """Yield the regions of each chunk."""
    if is_traced(query.device):
        # all regions at once: a graph would unroll the loop, and be of one size
        yield slice(None)
        return
    for start in range(0, len(query), chunk):
        yield slice(start, start + chunk)


def _attend(query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int) -> Tensor:
    """Attend from one chunk of queries ``(chunk, T', C)`` to its routes ``(chunk, k)``."""
    out = F.scaled_dot_product_attention(
        split_heads(query, num_heads),
        split_heads(_gather(key, routes), num_heads),
        split_heads(_gather(value, routes), num_heads),
        scale=query.shape[-1] ** -0.5,
    )
    return join_heads(out)


def _differentiate(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> tuple[Tensor, ...]:
    """Return the gradients of one chunk's queries and of the keys and values it gathers.

    Computes in at least float32, because logits may overflow in half precision.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    heads = (
        split_heads(x, num_heads).to(exact)
        for x in (grad, query, _gather(key, routes), _gather(value, routes))
    )
    *grads, _ = attention_gradients(*heads, bias=None, scale=query.shape[-1] ** -0.5)
    return tuple(map(join_heads, grads))


def _gather(x: Tensor, routes: Tensor) -> Tensor:
    """Gather the regions ``(R, T, C)`` listed in `routes` ``(chunk, k)``: ``(chunk, k·T, C)``."""
    return x.index_select(0, routes.flatten()).unflatten(0, routes.shape).flatten(1, 2)

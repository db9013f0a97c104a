"""Routed attention in Triton kernels that index regions instead of gathering them.

Besides the output they write two numbers per query and head. In the backward pass, each region of
keys sums its gradients over the query regions that are routed to it, which an inverse index lists:
without atomics, so the result is deterministic.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import triton_support
from ..triton_support import divide_up, launch, power_of_two, register_gradient
from .chunked import routed_attention_chunked

MAX_HEAD_DIM = 128


class _Plan(NamedTuple):
    """Block sizes and launch options of one kernel."""

    HEAD_DIM: int
    BLOCK_D: int
    BLOCK_QUERY: int
    BLOCK_KEY: int
    num_warps: int
    num_stages: int


def _with_dense_channels(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _plan_queries(query: Tensor, head_dim: int) -> _Plan:
    """Choose the blocks of a kernel whose programs own queries and iterate over keys."""
    owned, loaded, *options = _sizes(query, head_dim)
    dims = head_dim, power_of_two(head_dim, least=16)
    return _Plan(*dims, _block(query.shape[2], owned), loaded, *options)


def _plan_keys(key: Tensor, head_dim: int) -> _Plan:
    """Choose the blocks of a kernel whose programs own keys and iterate over queries."""
    owned, loaded, *options = _sizes(key, head_dim)
    dims = head_dim, power_of_two(head_dim, least=16)
    # two accumulators occupy the registers, so halve the block of queries
    return _Plan(*dims, max(16, loaded // 2), _block(key.shape[2], owned), *options)


def _sizes(x: Tensor, head_dim: int) -> tuple[int, int, int, int]:
    """Return the largest owned block, the block loaded at a time, warps and stages.

    Chosen to avoid register spilling when compiled for an H100.
    """
    if x.dtype == torch.float32:
        return (32, 16, 4, 2) if head_dim <= 64 else (16, 16, 4, 2)
    return (64, 64, 4, 3) if head_dim <= 64 else (64, 32, 4, 2)


def _block(num_tokens: int, most: int) -> int:
    """Choose the cheapest block for the tokens of a region, a power of two from 16 to 64."""
    blocks = [size for size in (64, 32, 16) if size <= most]
    # a block costs its tokens, padding included, plus about 16 for the tokens it iterates over
    return min(blocks, key=lambda size: divide_up(num_tokens, size) * (size + 16))


def invert_routes(routes: Tensor, num_regions: int) -> tuple[Tensor, Tensor]:
    """List, for each region, the query regions that are routed to it.

    Args:
        routes: regions of each query region, ``(B, R', k)``, integers below R, contiguous.
        num_regions: number of regions R.

    Returns:
        sources ``(B, R'·k)`` and bounds ``(B, R, 2)``: the query regions routed to region j of
        image b are ``sources[b, bounds[b, j, 0]:bounds[b, j, 1]]``, in ascending order.
    """
    from .triton_backward import invert_kernel

    batch, num_queries, topk = routes.shape
    sources = routes.new_empty((batch, num_queries * topk), dtype=torch.int32)
    bounds = routes.new_empty((batch, num_regions, 2), dtype=torch.int32)
    sizes = num_queries, num_regions, topk
    launch(invert_kernel, batch * num_regions, routes, sources, bounds, *sizes, BLOCK=1024)
    return sources, bounds


# explicit schema, because torch versions differ in the annotations that they can parse
@torch.library.custom_op(
    "hybrid_backbones::routed_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor routes,"
    " int num_heads) -> (Tensor, Tensor, Tensor)",
)
def _forward(query, key, value, routes, num_heads):
    """Return the output and, for each softmax, the largest logit and the sum, ``(B, R', h, T')``.

    Their log-sum-exp, a single number, would round large logits.
    """
    from .triton_forward import forward_kernel

    query, key, value = (_with_dense_channels(x) for x in (query, key, value))
    routes = routes.contiguous()
    out, tops, totals = _forward_like(query, key, value, routes, num_heads)
    num_queries, query_tokens = query.shape[1:3]
    head_dim = query.shape[3] // num_heads
    plan = _plan_queries(query, head_dim)
    launch(
        forward_kernel,
        query.shape[0] * num_queries * num_heads * divide_up(query_tokens, plan.BLOCK_QUERY),
        query,
        key,
        value,
        routes,
        out,
        tops,
        totals,
        tuple(x.stride()[:3] for x in (query, key, value)),
        num_queries,
        num_heads,
        query_tokens,
        key.shape[2],
        routes.shape[2],
        math.log2(math.e) * query.shape[3] ** -0.5,
        **plan._asdict(),
    )
    return out, tops, totals


@_forward.register_fake
def _forward_like(query, key, value, routes, num_heads):
    batch, num_queries, tokens, _ = query.shape
    shape = batch, num_queries, num_heads, tokens
    tops, totals = (query.new_empty(shape, dtype=torch.float32) for _ in range(2))
    return query.new_empty(query.shape), tops, totals


@torch.library.custom_op(
    "hybrid_backbones::routed_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor routes,"
    " Tensor out, Tensor tops, Tensor totals, int num_heads)"
    " -> (Tensor, Tensor, Tensor)",
)
def _backward(grad, query, key, value, routes, out, tops, totals, num_heads):
    """Return the gradients of query, key and value."""
    from .triton_backward import key_value_gradient_kernel, query_gradient_kernel

    grad, query, key, value = (_with_dense_channels(x) for x in (grad, query, key, value))
    routes = routes.contiguous()
    grads = _backward_like(grad, query, key, value, routes, out, tops, totals, num_heads)
    delta = torch.empty_like(tops)
    batch, num_queries, query_tokens, channels = query.shape
    num_keys, key_tokens = key.shape[1:3]
    head_dim, grad_scale = channels // num_heads, channels**-0.5
    scale = math.log2(math.e) * grad_scale
    strides = tuple(x.stride()[:3] for x in (query, key, value, grad))
    plan = _plan_queries(query, head_dim)
    launch(
        query_gradient_kernel,
        batch * num_queries * num_heads * divide_up(query_tokens, plan.BLOCK_QUERY),
        query,
        key,
        value,
        routes,
        out,
        grad,
        tops,
        totals,
        grads[0],
        delta,
        strides,
        num_queries,
        num_heads,
        query_tokens,
        key_tokens,
        routes.shape[2],
        scale,
        grad_scale,
        **plan._asdict(),
    )
    plan = _plan_keys(key, head_dim)
    launch(
        key_value_gradient_kernel,
        batch * num_keys * num_heads * divide_up(key_tokens, plan.BLOCK_KEY),
        query,
        key,
        value,
        *invert_routes(routes, num_keys),
        grad,
        tops,
        totals,
        delta,
        *grads[1:],
        strides,
        num_queries,
        num_keys,
        num_heads,
        query_tokens,
        key_tokens,
        routes.shape[2],
        scale,
        grad_scale,
        **plan._asdict(),
    )
    return grads


@_backward.register_fake
def _backward_like(grad, query, key, value, routes, out, tops, totals, num_heads):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


register_gradient(_forward, _backward, routed_attention_chunked)


def unsupported_reason(query: Tensor, num_heads: int) -> str | None:
    """Return why :func:`routed_attention_triton` cannot process `query`, or None if it can."""
    if query.shape[3] > MAX_HEAD_DIM * num_heads:
        return f"a head may have at most {MAX_HEAD_DIM} channels, got {query.shape[3] // num_heads}"
    return triton_support.unsupported_reason(query.device, query.dtype)


def routed_attention_triton(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> Tensor:
    """Compute :func:`routed_attention_reference` in Triton kernels.

    Arguments as in :func:`routed_attention`.
    """
    return _forward(query, key, value, routes, num_heads)[0]

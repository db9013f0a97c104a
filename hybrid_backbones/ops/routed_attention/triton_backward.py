# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Triton kernels for the gradients of routed attention; `triton_tokens` explains the blocks.

Programs that own queries iterate over the regions that these are routed to. Programs that own keys
iterate over the query regions that are routed to these, which an inverse index lists.
"""

import triton
import triton.language as tl

from ..triton_blocks import dot
from .triton_tokens import COUNTS, load_tokens, locate, store_tokens, walk


@triton.jit(do_not_specialize=COUNTS)
def query_gradient_kernel(
    query,
    key,
    value,
    routes,
    out,
    grad,
    tops,
    totals,
    grad_query,
    delta,
    strides,
    num_queries,
    num_heads,
    query_tokens,
    key_tokens,
    topk,
    scale,
    grad_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_QUERY: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
):
    """Compute the gradient of one block of queries and its ``delta = Σ out · grad``.

    With P the weights: ``dP = dO Vᵀ``, ``dS = P ∘ (dP - delta)``, ``dQ = s·dS K``.
    """
    query_strides, key_strides, value_strides, grad_strides = strides
    row, head, tokens, exist = locate(query_tokens, num_heads, BLOCK_QUERY)
    batch, channel = row // num_queries, head * HEAD_DIM
    query += batch * query_strides[0] + row % num_queries * query_strides[1] + channel
    grad += batch * grad_strides[0] + row % num_queries * grad_strides[1] + channel
    key += batch * key_strides[0] + channel
    value += batch * value_strides[0] + channel
    written = row * query_tokens * num_heads * HEAD_DIM + channel
    statistics = (row * num_heads + head) * query_tokens + tokens

    queries = load_tokens(query, tokens * query_strides[2], exist, HEAD_DIM, BLOCK_D)
    grads = load_tokens(grad, tokens * grad_strides[2], exist, HEAD_DIM, BLOCK_D)
    outs = load_tokens(out + written, tokens * num_heads * HEAD_DIM, exist, HEAD_DIM, BLOCK_D)
    deltas = tl.sum(outs.to(tl.float32) * grads.to(tl.float32), 1)
    tl.store(delta + statistics, deltas, mask=exist)
    top = tl.load(tops + statistics, mask=exist, other=0.0)
    share = 1 / tl.load(totals + statistics, mask=exist, other=1.0)

    grad_queries = tl.zeros([BLOCK_QUERY, BLOCK_D], tl.float32)
    for first in range(0, topk * key_tokens, BLOCK_KEY):
        region, token, inside = walk(
            first, topk * key_tokens, routes + row * topk, key_tokens, BLOCK_KEY
        )
        keys = load_tokens(
            key, region * key_strides[1] + token * key_strides[2], inside, HEAD_DIM, BLOCK_D
        )
        values = load_tokens(
            value, region * value_strides[1] + token * value_strides[2], inside, HEAD_DIM, BLOCK_D
        )
        logits = tl.where(inside[None, :], dot(queries, tl.trans(keys)) * scale, float("-inf"))
        weights = tl.exp2(logits - top[:, None]) * share[:, None]
        grad_logits = weights * (dot(grads, tl.trans(values)) - deltas[:, None])
        grad_queries += dot(grad_logits.to(keys.dtype), keys)

    store_tokens(
        grad_query + written,
        tokens * num_heads * HEAD_DIM,
        exist,
        grad_queries * grad_scale,
        HEAD_DIM,
        BLOCK_D,
    )


@triton.jit(do_not_specialize=COUNTS)
def invert_kernel(routes, sources, bounds, num_queries, num_keys, topk, BLOCK: tl.constexpr):
    """List the query regions that are routed to one region, in ascending order.

    They are ``sources[bounds[row, 0]:bounds[row, 1]]`` of its image, after those of all regions
    before it. Counting takes R times R'·k comparisons, far less time than sorting so few numbers.
    """
    row = tl.program_id(0).to(tl.int64)
    region, length = row % num_keys, num_queries * topk
    routes += row // num_keys * length
    sources += row // num_keys * length

    before = tl.zeros([BLOCK], tl.int32)
    for first in range(0, length, BLOCK):
        numbers = first + tl.arange(0, BLOCK)
        to = tl.load(routes + numbers, mask=numbers < length, other=num_keys)
        before += (to < region).to(tl.int32)
    start = tl.sum(before, 0)
    stop = start
    for first in range(0, length, BLOCK):
        numbers = first + tl.arange(0, BLOCK)
        found = tl.load(routes + numbers, mask=numbers < length, other=num_keys) == region
        places = stop + tl.cumsum(found.to(tl.int32), 0) - 1
        tl.store(sources + places, numbers // topk, mask=found)
        stop += tl.sum(found.to(tl.int32), 0)
    tl.store(bounds + row * 2, start)
    tl.store(bounds + row * 2 + 1, stop)


@triton.jit(do_not_specialize=COUNTS)
def key_value_gradient_kernel(
    query,
    key,
    value,
    sources,
    bounds,
    grad,
    tops,
    totals,
    delta,
    grad_key,
    grad_value,
    strides,
    num_queries,
    num_keys,
    num_heads,
    query_tokens,
    key_tokens,
    topk,
    scale,
    grad_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_QUERY: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
):
    """Sum the gradients of one block of keys over the query regions that are routed to it, if any.

    With P the weights: ``dV = Pᵀ dO``, ``dSᵀ = Pᵀ ∘ (V dOᵀ - delta)``,
    ``dK = s·dSᵀ Q``.
    """
    query_strides, key_strides, value_strides, grad_strides = strides
    row, head, tokens, exist = locate(key_tokens, num_heads, BLOCK_KEY)
    batch, region, channel = row // num_keys, row % num_keys, head * HEAD_DIM
    query += batch * query_strides[0] + channel
    grad += batch * grad_strides[0] + channel
    key += batch * key_strides[0] + region * key_strides[1] + channel
    value += batch * value_strides[0] + region * value_strides[1] + channel
    sources += batch * num_queries * topk
    first_statistics = (batch * num_queries * num_heads + head) * query_tokens

    keys = load_tokens(key, tokens * key_strides[2], exist, HEAD_DIM, BLOCK_D)
    values = load_tokens(value, tokens * value_strides[2], exist, HEAD_DIM, BLOCK_D)

    grad_keys = tl.zeros([BLOCK_KEY, BLOCK_D], tl.float32)
    grad_values = tl.zeros([BLOCK_KEY, BLOCK_D], tl.float32)
    start = tl.load(bounds + row * 2)
    length = (tl.load(bounds + row * 2 + 1) - start) * query_tokens
    for first in range(0, length, BLOCK_QUERY):
        source, token, inside = walk(first, length, sources + start, query_tokens, BLOCK_QUERY)
        queries = load_tokens(
            query, source * query_strides[1] + token * query_strides[2], inside, HEAD_DIM, BLOCK_D
        )
        grads = load_tokens(
            grad, source * grad_strides[1] + token * grad_strides[2], inside, HEAD_DIM, BLOCK_D
        )
        statistics = first_statistics + source * num_heads * query_tokens + token
        top = tl.load(tops + statistics, mask=inside, other=0.0)
        share = 1 / tl.load(totals + statistics, mask=inside, other=1.0)
        deltas = tl.load(delta + statistics, mask=inside, other=0.0)
        logits = tl.where(exist[:, None], dot(keys, tl.trans(queries)) * scale, float("-inf"))
        # beyond `length`, queries and grads are zero: weights are finite and add nothing
        weights = tl.exp2(logits - top[None, :]) * share[None, :]
        grad_values += dot(weights.to(grads.dtype), grads)
        grad_logits = weights * (dot(values, tl.trans(grads)) - deltas[None, :])
        grad_keys += dot(grad_logits.to(queries.dtype), queries)

    written = row * key_tokens * num_heads * HEAD_DIM + channel
    step = num_heads * HEAD_DIM
    store_tokens(
        grad_key + written, tokens * step, exist, grad_keys * grad_scale, HEAD_DIM, BLOCK_D
    )
    store_tokens(grad_value + written, tokens * step, exist, grad_values, HEAD_DIM, BLOCK_D)

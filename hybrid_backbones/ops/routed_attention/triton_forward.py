# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Triton kernel for the output of routed attention; `triton_tokens` explains the blocks."""

import triton
import triton.language as tl

from ..triton_blocks import LOWEST, dot
from .triton_tokens import COUNTS, load_tokens, locate, store_tokens, walk


@triton.jit(do_not_specialize=COUNTS)
def forward_kernel(
    query,
    key,
    value,
    routes,
    out,
    tops,
    totals,
    strides,
    num_queries,
    num_heads,
    query_tokens,
    key_tokens,
    topk,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_QUERY: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
):
    """Compute attention for one block of queries of one head with an online softmax."""
    query_strides, key_strides, value_strides = strides
    row, head, tokens, exist = locate(query_tokens, num_heads, BLOCK_QUERY)
    batch, channel = row // num_queries, head * HEAD_DIM
    query += batch * query_strides[0] + row % num_queries * query_strides[1] + channel
    key += batch * key_strides[0] + channel
    value += batch * value_strides[0] + channel

    queries = load_tokens(query, tokens * query_strides[2], exist, HEAD_DIM, BLOCK_D)
    # finite, because -inf - (-inf) would be NaN if all products of the first block overflow
    top = tl.full([BLOCK_QUERY], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_QUERY], tl.float32)
    mean = tl.zeros([BLOCK_QUERY, BLOCK_D], tl.float32)
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
        new_top = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink[:, None] + dot(weights.to(values.dtype), values)
        top = new_top

    out += row * query_tokens * num_heads * HEAD_DIM + channel
    mean = mean / total[:, None]
    store_tokens(out, tokens * num_heads * HEAD_DIM, exist, mean, HEAD_DIM, BLOCK_D)
    statistics = (row * num_heads + head) * query_tokens + tokens
    tl.store(tops + statistics, top, mask=exist)
    tl.store(totals + statistics, total, mask=exist)

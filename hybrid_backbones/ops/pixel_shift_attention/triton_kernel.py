# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
# tuples grow in loops that Triton unrolls
# mypy: disable-error-code="assignment"
"""Triton kernel of pixel-shift attention; `triton` explains how it also computes the gradients.

A program owns a tile of ``TILE_Y × TILE_X`` queries of one head and iterates over its channels
twice, ``BLOCK_D`` at a time: first to sum the products with each of the K² keys that a query sees,
then to weight the values. In between, the K² weights of the tile stay in registers. Adjacent
queries share keys, so repeated loads come from the cache.

Queries of a tile are `key_step` apart, so that each offset leads all of them to keys, or none.
"""

import triton
import triton.language as tl

from ..triton_blocks import first_cell, locate
from ..triton_support import MAP_COUNTS


@triton.jit
def _see(first, cells, query_step, key_step, dilation, length, KERNEL: tl.constexpr):
    """Return, per offset along an axis, the first cell's key and which cells see a key inside."""
    keys, seen = (), ()
    for tap in tl.static_range(KERNEL):
        position = query_step * first + (tap - KERNEL // 2) * dilation
        key = position // key_step
        at = key + query_step * cells
        keys += (key.to(tl.int64),)
        seen += ((key * key_step == position) & (at >= 0) & (at < length),)
    return keys, seen


@triton.jit
def _spread(start, y, x, step_d, step_y, step_x, BLOCK_D: tl.constexpr):
    """Return pointers (BLOCK_D, N) to the first ``BLOCK_D`` channels of N cells."""
    dims = tl.arange(0, BLOCK_D).to(tl.int64) * step_d
    cells = y.to(tl.int64) * step_y + x.to(tl.int64) * step_x
    return start + dims[:, None] + cells[None, :]


@triton.jit
def _exist(first, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return which channels from `first` on exist: (BLOCK_D, 1)."""
    if HEAD_DIM % BLOCK_D == 0:
        return tl.full([BLOCK_D, 1], 1, tl.int1)
    return (first + tl.arange(0, BLOCK_D) < HEAD_DIM)[:, None]


@triton.jit(do_not_specialize=MAP_COUNTS)
def attend_kernel(
    query,
    key,
    value,
    out,
    query_b,
    query_d,
    query_y,
    query_x,
    key_b,
    key_d,
    key_y,
    key_x,
    value_b,
    value_d,
    value_y,
    value_x,
    out_b,
    out_d,
    out_y,
    out_x,
    num_heads,
    query_height,
    query_width,
    key_height,
    key_width,
    tiles_y,
    tiles_x,
    query_step,
    key_step,
    dilation,
    scale,
    KERNEL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    """Compute pixel-shift attention for one tile of queries of one head."""
    batch, head, tile_y, tile_x = locate(num_heads, tiles_y, tiles_x)
    channel = head * HEAD_DIM

    cells = tl.arange(0, TILE_Y * TILE_X)
    cell_y, cell_x = cells // TILE_X, cells % TILE_X
    first_y = first_cell(tile_y, key_step, TILE_Y)
    first_x = first_cell(tile_x, key_step, TILE_X)
    rows, seen_y = _see(first_y, cell_y, query_step, key_step, dilation, key_height, KERNEL)
    cols, seen_x = _see(first_x, cell_x, query_step, key_step, dilation, key_width, KERNEL)
    y, x = first_y + cell_y * key_step, first_x + cell_x * key_step
    inside = ((y < query_height) & (x < query_width))[None, :]

    query += batch * query_b + channel * query_d
    query = _spread(query, y, x, query_d, query_y, query_x, BLOCK_D)
    out += batch * out_b + channel * out_d
    out = _spread(out, y, x, out_d, out_y, out_x, BLOCK_D)
    # relative to the key of the tile's first query, since an offset moves all pointers equally
    y, x = cell_y * query_step, cell_x * query_step
    key += batch * key_b + channel * key_d
    key = _spread(key, y, x, key_d, key_y, key_x, BLOCK_D)
    value += batch * value_b + channel * value_d
    value = _spread(value, y, x, value_d, value_y, value_x, BLOCK_D)

    # channels stay separate until the end: one sum over threads per offset, not per block
    zeros = tl.zeros([BLOCK_D, TILE_Y * TILE_X], tl.float32)
    products = ()
    for _ in tl.static_range(KERNEL * KERNEL):
        products += (zeros,)
    for first in range(0, HEAD_DIM, BLOCK_D):
        exist = _exist(first, HEAD_DIM, BLOCK_D)
        queries = tl.load(query, mask=exist & inside, other=0.0).to(tl.float32)
        new_products = ()
        for i in tl.static_range(KERNEL):
            for j in tl.static_range(KERNEL):
                pointers = key + (rows[i] * key_y + cols[j] * key_x)
                seen = exist & (seen_y[i] & seen_x[j])[None, :]
                keys = tl.load(pointers, mask=seen, other=0.0)
                new_products += (products[i * KERNEL + j] + queries * keys.to(tl.float32),)
        products = new_products
        query += BLOCK_D * query_d
        key += BLOCK_D * key_d

    weights = ()
    for tap in tl.static_range(KERNEL * KERNEL):
        weights += (tl.sum(products[tap], 0)[None, :] * scale,)

    for first in range(0, HEAD_DIM, BLOCK_D):
        exist = _exist(first, HEAD_DIM, BLOCK_D)
        total = zeros
        for i in tl.static_range(KERNEL):
            for j in tl.static_range(KERNEL):
                pointers = value + (rows[i] * value_y + cols[j] * value_x)
                seen = exist & (seen_y[i] & seen_x[j])[None, :]
                values = tl.load(pointers, mask=seen, other=0.0)
                total += weights[i * KERNEL + j] * values.to(tl.float32)
        tl.store(out, total.to(out.dtype.element_ty), mask=exist & inside)
        value += BLOCK_D * value_d
        out += BLOCK_D * out_d


# where columns are innermost in memory, each thread loads one: aligned groups, which the masks
# split up again, would scatter the addresses that adjacent threads load
attend_columns_kernel = triton.jit(
    attend_kernel.fn,
    do_not_specialize=MAP_COUNTS,
    do_not_specialize_on_alignment=[
        f"{x}_{axis}" for x in ("query", "key", "value", "out") for axis in "bdy"
    ],
)

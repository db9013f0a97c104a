# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Triton kernels for the output and the query gradient of local attention: programs own queries.

The queries of a tile and the keys of its halo are multiplied as matrices, and products outside the
windows are masked: several times the products that are needed, but on the matrix units they cost
less than one vector product per neighbour. Channels are padded with zeros from ``HEAD_DIM`` to
``BLOCK_D``, a power of two. The logit scale is for a softmax in base 2.
"""

import triton
import triton.language as tl

from ..triton_support import MAP_COUNTS
from .triton_tiles import LOWEST, dot, first_cell, load_cells, locate, reflect, store_cells


@triton.jit
def _visible(
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Return the row, within each query's window, of each key in the first rows of the halo.

    A key is visible if its row is in ``[0, KERNEL)``; in columns outside the window it never is.
    """
    queries = tl.arange(0, TILE_Y * TILE_X)[:, None]
    keys = tl.arange(0, ROWS * COLS)[None, :]
    across = keys % COLS - STEP * (queries % TILE_X)
    down = keys // COLS - STEP * (queries // TILE_X)
    return tl.where((across >= 0) & (across < KERNEL), down, -(2**30))


@triton.jit(do_not_specialize=MAP_COUNTS)
def forward_kernel(
    query,
    key,
    value,
    out,
    tops,
    totals,
    query_b,
    query_h,
    query_d,
    query_y,
    query_x,
    key_b,
    key_h,
    key_d,
    key_y,
    key_x,
    value_b,
    value_h,
    value_d,
    value_y,
    value_x,
    out_b,
    out_h,
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
    stride,
    dilation,
    spacing,
    scale,
    FOLDS_Y: tl.constexpr,
    FOLDS_X: tl.constexpr,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Compute attention for one tile of queries of one head with an online softmax."""
    batch, head, tile_y, tile_x = locate(num_heads, tiles_y, tiles_x)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h

    first_y = first_cell(tile_y, spacing, TILE_Y)
    first_x = first_cell(tile_x, spacing, TILE_X)
    cells = tl.arange(0, TILE_Y * TILE_X)
    y, x = first_y + cells // TILE_X * spacing, first_x + cells % TILE_X * spacing
    exist = (y < query_height) & (x < query_width)
    y, x = tl.minimum(y, query_height - 1), tl.minimum(x, query_width - 1)
    queries = load_cells(query, y * query_y + x * query_x, query_d, HEAD_DIM, BLOCK_D)
    queries = tl.trans(queries)  # (cells, BLOCK_D)

    halo = tl.arange(0, ROWS * COLS)
    top = stride * first_y - KERNEL // 2 * dilation + halo // COLS * dilation
    left = stride * first_x - KERNEL // 2 * dilation + halo % COLS * dilation
    left = reflect(left, key_width, FOLDS_X)
    down = _visible(KERNEL, STEP, TILE_Y, TILE_X, ROWS, COLS)

    # finite, because -inf - (-inf) would be NaN where the first rows hold no visible key
    highest = tl.full([TILE_Y * TILE_X], LOWEST, tl.float32)
    total = tl.zeros([TILE_Y * TILE_X, ROWS * COLS], tl.float32)
    mean = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for row in range(0, (TILE_Y - 1) * STEP + KERNEL, ROWS):
        rows = reflect(top + row * dilation, key_height, FOLDS_Y)
        keys = load_cells(key, rows * key_y + left * key_x, key_d, HEAD_DIM, BLOCK_D)
        values = load_cells(value, rows * value_y + left * value_x, value_d, HEAD_DIM, BLOCK_D)
        visible = (down + row).to(tl.uint32) < KERNEL
        logits = tl.where(visible, dot(queries, keys), float("-inf"))
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2((logits - new_highest[:, None]) * scale)
        shrink = tl.exp2((highest - new_highest) * scale)
        total = total * shrink[:, None] + weights
        mean = mean * shrink[:, None] + dot(weights.to(values.dtype), tl.trans(values))
        highest = new_highest

    out += batch * out_b + head * out_h
    total = tl.sum(total, 1)
    mean = mean / total[:, None]
    store_cells(out, y * out_y + x * out_x, out_d, exist, mean, HEAD_DIM, BLOCK_D)
    statistics = (batch * num_heads + head) * query_height * query_width + y * query_width + x
    tl.store(tops + statistics, highest, mask=exist)
    tl.store(totals + statistics, total, mask=exist)


@triton.jit(do_not_specialize=MAP_COUNTS)
def query_gradient_kernel(
    query,
    key,
    value,
    out,
    grad,
    grad_query,
    tops,
    totals,
    delta,
    query_b,
    query_h,
    query_d,
    query_y,
    query_x,
    key_b,
    key_h,
    key_d,
    key_y,
    key_x,
    value_b,
    value_h,
    value_d,
    value_y,
    value_x,
    out_b,
    out_h,
    out_d,
    out_y,
    out_x,
    grad_b,
    grad_h,
    grad_d,
    grad_y,
    grad_x,
    grad_query_b,
    grad_query_h,
    grad_query_d,
    grad_query_y,
    grad_query_x,
    num_heads,
    query_height,
    query_width,
    key_height,
    key_width,
    tiles_y,
    tiles_x,
    stride,
    dilation,
    spacing,
    scale,
    grad_scale,
    FOLDS_Y: tl.constexpr,
    FOLDS_X: tl.constexpr,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Compute the gradient of one tile of queries and its ``delta = Σ out · grad``.

    With P the weights: ``dP = dO Vᵀ``, ``dS = P ∘ (dP - delta)``, ``dQ = s·dS K``.
    """
    batch, head, tile_y, tile_x = locate(num_heads, tiles_y, tiles_x)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    out += batch * out_b + head * out_h
    grad += batch * grad_b + head * grad_h

    first_y = first_cell(tile_y, spacing, TILE_Y)
    first_x = first_cell(tile_x, spacing, TILE_X)
    cells = tl.arange(0, TILE_Y * TILE_X)
    y, x = first_y + cells // TILE_X * spacing, first_x + cells % TILE_X * spacing
    exist = (y < query_height) & (x < query_width)
    y, x = tl.minimum(y, query_height - 1), tl.minimum(x, query_width - 1)
    queries = load_cells(query, y * query_y + x * query_x, query_d, HEAD_DIM, BLOCK_D)
    outs = load_cells(out, y * out_y + x * out_x, out_d, HEAD_DIM, BLOCK_D)
    grads = load_cells(grad, y * grad_y + x * grad_x, grad_d, HEAD_DIM, BLOCK_D)
    deltas = tl.sum(outs.to(tl.float32) * grads.to(tl.float32), 0)
    statistics = (batch * num_heads + head) * query_height * query_width + y * query_width + x
    tl.store(delta + statistics, deltas, mask=exist)
    highest = tl.load(tops + statistics)
    share = 1 / tl.load(totals + statistics)
    queries, grads = tl.trans(queries), tl.trans(grads)  # (cells, BLOCK_D)

    halo = tl.arange(0, ROWS * COLS)
    top = stride * first_y - KERNEL // 2 * dilation + halo // COLS * dilation
    left = stride * first_x - KERNEL // 2 * dilation + halo % COLS * dilation
    left = reflect(left, key_width, FOLDS_X)
    down = _visible(KERNEL, STEP, TILE_Y, TILE_X, ROWS, COLS)

    grad_queries = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for row in range(0, (TILE_Y - 1) * STEP + KERNEL, ROWS):
        rows = reflect(top + row * dilation, key_height, FOLDS_Y)
        keys = load_cells(key, rows * key_y + left * key_x, key_d, HEAD_DIM, BLOCK_D)
        values = load_cells(value, rows * value_y + left * value_x, value_d, HEAD_DIM, BLOCK_D)
        visible = (down + row).to(tl.uint32) < KERNEL
        logits = tl.where(visible, dot(queries, keys), float("-inf"))
        weights = tl.exp2((logits - highest[:, None]) * scale) * share[:, None]
        grad_logits = weights * (dot(grads, values) - deltas[:, None])
        grad_queries += dot(grad_logits.to(keys.dtype), tl.trans(keys))

    grad_query += batch * grad_query_b + head * grad_query_h
    store_cells(
        grad_query,
        y * grad_query_y + x * grad_query_x,
        grad_query_d,
        exist,
        grad_queries * grad_scale,
        HEAD_DIM,
        BLOCK_D,
    )

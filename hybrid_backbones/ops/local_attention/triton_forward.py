# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Triton kernels for the output and the query gradient of local attention: programs own queries.

The queries of a tile and the keys of its halo are multiplied as matrices, and products outside the
windows are masked: several times the products that are needed, but on the matrix units they cost
less than one vector product per neighbour. Channels are padded with zeros from ``HEAD_DIM`` to
``BLOCK_D``, a power of two. The logit scale is for a softmax in base 2.
"""

import triton
import triton.language as tl

from ..triton_blocks import LOWEST, dot, locate
from ..triton_support import MAP_COUNTS
from .triton_tiles import load_cells, place_tile, reflect, start_of, store_cells


@triton.jit
def _place_halo(
    first_y,
    first_x,
    stride,
    dilation,
    KERNEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Return the rows and columns of the first ``ROWS × COLS`` keys that a tile's queries see."""
    halo = tl.arange(0, ROWS * COLS)
    top = stride * first_y - KERNEL // 2 * dilation + halo // COLS * dilation
    left = stride * first_x - KERNEL // 2 * dilation + halo % COLS * dilation
    return top, left


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
    strides,
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
    query_strides, key_strides, value_strides, out_strides = strides
    batch, head, tile_y, tile_x = locate(num_heads, tiles_y, tiles_x)
    query = start_of(query, query_strides, batch, head)
    key = start_of(key, key_strides, batch, head)
    value = start_of(value, value_strides, batch, head)
    out = start_of(out, out_strides, batch, head)

    first_y, first_x, y, x, exist = place_tile(
        tile_y, tile_x, query_height, query_width, spacing, TILE_Y, TILE_X
    )
    queries = tl.trans(load_cells(query, query_strides, y, x, HEAD_DIM, BLOCK_D))
    top, left = _place_halo(first_y, first_x, stride, dilation, KERNEL, ROWS, COLS)
    left = reflect(left, key_width, FOLDS_X)
    down = _visible(KERNEL, STEP, TILE_Y, TILE_X, ROWS, COLS)

    # finite, because -inf - (-inf) would be NaN where the first rows hold no visible key
    highest = tl.full([TILE_Y * TILE_X], LOWEST, tl.float32)
    total = tl.zeros([TILE_Y * TILE_X, ROWS * COLS], tl.float32)
    mean = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for row in range(0, (TILE_Y - 1) * STEP + KERNEL, ROWS):
        rows = reflect(top + row * dilation, key_height, FOLDS_Y)
        keys = load_cells(key, key_strides, rows, left, HEAD_DIM, BLOCK_D)
        values = load_cells(value, value_strides, rows, left, HEAD_DIM, BLOCK_D)
        visible = (down + row).to(tl.uint32) < KERNEL
        logits = tl.where(visible, dot(queries, keys), float("-inf"))
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2((logits - new_highest[:, None]) * scale)
        shrink = tl.exp2((highest - new_highest) * scale)
        total = total * shrink[:, None] + weights
        mean = mean * shrink[:, None] + dot(weights.to(values.dtype), tl.trans(values))
        highest = new_highest

    total = tl.sum(total, 1)
    store_cells(out, out_strides, y, x, exist, mean / total[:, None], HEAD_DIM, BLOCK_D)
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
    strides,
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
    query_strides, key_strides, value_strides, out_strides, grad_strides, result_strides = strides
    batch, head, tile_y, tile_x = locate(num_heads, tiles_y, tiles_x)
    query = start_of(query, query_strides, batch, head)
    key = start_of(key, key_strides, batch, head)
    value = start_of(value, value_strides, batch, head)
    out = start_of(out, out_strides, batch, head)
    grad = start_of(grad, grad_strides, batch, head)
    grad_query = start_of(grad_query, result_strides, batch, head)

    first_y, first_x, y, x, exist = place_tile(
        tile_y, tile_x, query_height, query_width, spacing, TILE_Y, TILE_X
    )
    queries = load_cells(query, query_strides, y, x, HEAD_DIM, BLOCK_D)
    outs = load_cells(out, out_strides, y, x, HEAD_DIM, BLOCK_D)
    grads = load_cells(grad, grad_strides, y, x, HEAD_DIM, BLOCK_D)
    deltas = tl.sum(outs.to(tl.float32) * grads.to(tl.float32), 0)
    statistics = (batch * num_heads + head) * query_height * query_width + y * query_width + x
    tl.store(delta + statistics, deltas, mask=exist)
    highest = tl.load(tops + statistics)
    share = 1 / tl.load(totals + statistics)
    queries, grads = tl.trans(queries), tl.trans(grads)  # (cells, BLOCK_D)
    top, left = _place_halo(first_y, first_x, stride, dilation, KERNEL, ROWS, COLS)
    left = reflect(left, key_width, FOLDS_X)
    down = _visible(KERNEL, STEP, TILE_Y, TILE_X, ROWS, COLS)

    grad_queries = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for row in range(0, (TILE_Y - 1) * STEP + KERNEL, ROWS):
        rows = reflect(top + row * dilation, key_height, FOLDS_Y)
        keys = load_cells(key, key_strides, rows, left, HEAD_DIM, BLOCK_D)
        values = load_cells(value, value_strides, rows, left, HEAD_DIM, BLOCK_D)
        visible = (down + row).to(tl.uint32) < KERNEL
        logits = tl.where(visible, dot(queries, keys), float("-inf"))
        weights = tl.exp2((logits - highest[:, None]) * scale) * share[:, None]
        grad_logits = weights * (dot(grads, values) - deltas[:, None])
        grad_queries += dot(grad_logits.to(keys.dtype), tl.trans(keys))

    grad_queries *= grad_scale
    store_cells(grad_query, result_strides, y, x, exist, grad_queries, HEAD_DIM, BLOCK_D)

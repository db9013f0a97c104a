# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Triton kernel for the gradients of key and value in local attention: each program owns keys.

Queries see a key at its position and at each of its mirror images beyond the borders. A mirrored
axis is a sequence of panels: panel 0 is the map, its neighbours are the reversed map, and so on. A
program iterates, panel by panel, over the queries that see the images of its keys, mostly in panel
0 alone; so gradients accumulate in registers, in a fixed order, and are written once.
"""

import triton
import triton.language as tl

from ..triton_blocks import dot, locate
from ..triton_support import MAP_COUNTS
from .triton_tiles import load_cells, place_tile, start_of, store_cells


@triton.jit
def _panels(first, length, panels, dilation, KERNEL: tl.constexpr, TILE: tl.constexpr):
    """Return the first and last panel along one axis where queries see the images of a tile."""
    last = first + (TILE - 1) * dilation
    radius = KERNEL // 2 * dilation
    low = tl.where(first <= radius, -panels, 0)
    high = tl.where(last >= length - 1 - radius, panels, 0)
    return low, high


@triton.jit
def _watch(
    first,
    panel,
    length,
    num_queries,
    stride,
    dilation,
    spacing,
    inverse,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return which queries along one axis see the images of a tile's keys in one panel.

    Cell n of the tile, at ``first + dilation·n``, has its image at ``image + sign·dilation·n``.
    Queries that see it are congruent to ``query`` modulo `spacing`, and ``query + spacing·j`` sees
    it if ``0 <= STEP·j - sign·n + offset < KERNEL``.

    Returns:
        sign, image, edge (position shared with the next panel inwards, to which the image there
        belongs; out of range if there is none), query, offset, and the range of j, begin and end.
    """
    span = tl.maximum(length - 1, 1)
    mirrored = (panel % 2 != 0) & (length > 1)
    sign = tl.where(mirrored, -1, 1)
    image = sign * first + span * tl.where(mirrored, panel + 1, panel)
    edge = span * tl.where(panel > 0, panel, panel + 1)
    edge = tl.where((panel != 0) & (length > 1), edge, -(2**30))
    # solve stride · query ≡ image modulo dilation, where `inverse` inverts STEP modulo spacing
    common = dilation // spacing
    residue = (image % dilation + dilation) % dilation
    query = residue // common * inverse % spacing
    offset = (stride * query - image) // dilation + KERNEL // 2
    below = tl.where(mirrored, 1 - TILE, 0) - offset
    above = tl.where(mirrored, 0, TILE - 1) - offset + KERNEL - 1
    begin = (tl.maximum(below, 0) + STEP - 1) // STEP
    end = (tl.maximum(num_queries - query, 0) + spacing - 1) // spacing
    end = tl.minimum(end, tl.maximum(above + STEP, 0) // STEP)
    return sign, image, edge, query, offset, begin, tl.where(residue % common == 0, end, 0)


@triton.jit(do_not_specialize=MAP_COUNTS)
def key_value_gradient_kernel(
    query,
    key,
    value,
    grad,
    grad_key,
    grad_value,
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
    inverse,
    panels_y,
    panels_x,
    scale,
    grad_scale,
    KERNEL: tl.constexpr,
    STEP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Sum the gradients of one tile of keys over the queries that see them or their images.

    With P the weights: ``dV = Pᵀ dO``, ``dSᵀ = Pᵀ ∘ (V dOᵀ - delta)``, ``dK = s·dSᵀ Q``.
    """
    query_strides, key_strides, value_strides, grad_strides, key_result, value_result = strides
    batch, head, tile_y, tile_x = locate(num_heads, tiles_y, tiles_x)
    query = start_of(query, query_strides, batch, head)
    key = start_of(key, key_strides, batch, head)
    value = start_of(value, value_strides, batch, head)
    grad = start_of(grad, grad_strides, batch, head)
    statistics = (batch * num_heads + head) * query_height * query_width
    tops += statistics
    totals += statistics
    delta += statistics

    first_y, first_x, y, x, exist = place_tile(
        tile_y, tile_x, key_height, key_width, dilation, TILE_Y, TILE_X
    )
    cells = tl.arange(0, TILE_Y * TILE_X)
    cell_y, cell_x = cells // TILE_X, cells % TILE_X
    keys = tl.trans(load_cells(key, key_strides, y, x, HEAD_DIM, BLOCK_D))  # (cells, BLOCK_D)
    values = tl.trans(load_cells(value, value_strides, y, x, HEAD_DIM, BLOCK_D))

    low_y, high_y = _panels(first_y, key_height, panels_y, dilation, KERNEL, TILE_Y)
    low_x, high_x = _panels(first_x, key_width, panels_x, dilation, KERNEL, TILE_X)
    halo = tl.arange(0, ROWS * COLS)
    grad_keys = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    grad_values = tl.zeros([TILE_Y * TILE_X, BLOCK_D], tl.float32)
    for panel_y in range(low_y, high_y + 1):
        sign_y, image_y, edge_y, query_0, offset_y, begin_y, end_y = _watch(
            first_y,
            panel_y,
            key_height,
            query_height,
            stride,
            dilation,
            spacing,
            inverse,
            KERNEL,
            STEP,
            TILE_Y,
        )
        down = STEP * (halo // COLS)[None, :] - (sign_y * cell_y)[:, None] + offset_y
        down = tl.where((image_y + sign_y * dilation * cell_y == edge_y)[:, None], -(2**30), down)
        for panel_x in range(low_x, tl.where(begin_y < end_y, high_x + 1, low_x)):
            sign_x, image_x, edge_x, query_1, offset_x, begin_x, end_x = _watch(
                first_x,
                panel_x,
                key_width,
                query_width,
                stride,
                dilation,
                spacing,
                inverse,
                KERNEL,
                STEP,
                TILE_X,
            )
            column = begin_x + halo % COLS
            across = STEP * column[None, :] - (sign_x * cell_x)[:, None] + offset_x
            in_window = (across >= 0) & (across < KERNEL) & (column < end_x)[None, :]
            in_window &= (image_x + sign_x * dilation * cell_x != edge_x)[:, None]
            window_down = tl.where(in_window, down, -(2**30))
            columns = tl.minimum(query_1 + column * spacing, query_width - 1)
            stop = tl.where(begin_x < end_x, end_y, 0)
            for row in range(begin_y, stop, ROWS):
                visible = (window_down + STEP * row).to(tl.uint32) < KERNEL
                inside = row + halo // COLS < end_y
                rows = query_0 + (row + halo // COLS) * spacing
                rows = tl.minimum(rows, query_height - 1)
                queries = load_cells(query, query_strides, rows, columns, HEAD_DIM, BLOCK_D)
                grads = load_cells(grad, grad_strides, rows, columns, HEAD_DIM, BLOCK_D)
                at = rows * query_width + columns
                # infinite, so that rows without queries get zero weight
                highest = tl.load(tops + at, mask=inside, other=float("inf"))
                share = 1 / tl.load(totals + at)
                deltas = tl.load(delta + at)
                logits = tl.where(visible, dot(keys, queries), float("-inf"))
                weights = tl.exp2((logits - highest[None, :]) * scale) * share[None, :]
                grad_values += dot(weights.to(grads.dtype), tl.trans(grads))
                grad_logits = weights * (dot(values, grads) - deltas[None, :])
                grad_keys += dot(grad_logits.to(queries.dtype), tl.trans(queries))

    grad_key = start_of(grad_key, key_result, batch, head)
    grad_keys *= grad_scale
    store_cells(grad_key, key_result, y, x, exist, grad_keys, HEAD_DIM, BLOCK_D)
    grad_value = start_of(grad_value, value_result, batch, head)
    store_cells(grad_value, value_result, y, x, exist, grad_values, HEAD_DIM, BLOCK_D)

# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Shared parts of the Triton kernels of local attention: tiles, mirrored borders and products.

A program owns a tile of ``TILE_Y × TILE_X`` cells (queries, or keys in the backward pass) and
iterates over the halo of cells that these see, ``ROWS × COLS`` at a time. The cells of a tile are
spaced so that the cells they see are `dilation` apart, too. In units of `dilation`, the window
along each axis has ``KERNEL`` cells and moves by ``STEP`` from one cell of the tile to the next,
and no loaded cell falls between the taps of the dilated window.
"""

import triton
import triton.language as tl

from ..triton_blocks import first_cell


@triton.jit
def start_of(x, strides, batch, head):
    """Return the pointer to the map of one head of one image."""
    return x + batch * strides[0] + head * strides[1]


@triton.jit
def place_tile(tile_y, tile_x, height, width, spacing, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """Return the first row and column of a tile, those of all its cells, and which cells exist.

    Rows and columns outside the map are those of its border.
    """
    first_y, first_x = first_cell(tile_y, spacing, TILE_Y), first_cell(tile_x, spacing, TILE_X)
    cells = tl.arange(0, TILE_Y * TILE_X)
    y, x = first_y + cells // TILE_X * spacing, first_x + cells % TILE_X * spacing
    exist = (y < height) & (x < width)
    return first_y, first_x, tl.minimum(y, height - 1), tl.minimum(x, width - 1), exist


@triton.jit
def reflect(positions, length, FOLDS: tl.constexpr):
    """Fold positions into ``[0, length)`` by reflection at the first and the last pixel.

    Positions farther out than ``FOLDS`` folds can reach, which no query sees, become 0.
    """
    for _ in tl.static_range(FOLDS):
        positions = length - 1 - tl.abs(length - 1 - tl.abs(positions))
    return tl.maximum(positions, 0)


@triton.jit
def load_cells(start, strides, y, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the channels of the cells at rows `y` and columns `x` (N,): (BLOCK_D, N).

    If Triton cannot prove an axis contiguous (mirrored cells are not), it places adjacent threads
    along the first. Cells come first, because they are contiguous in channels-first maps.
    """
    dims = tl.arange(0, BLOCK_D)
    pointers = start + (y * strides[3] + x * strides[4])[:, None] + dims[None, :] * strides[2]
    if HEAD_DIM == BLOCK_D:
        return tl.trans(tl.load(pointers))
    return tl.trans(tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0))


@triton.jit
def store_cells(start, strides, y, x, exist, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store `values` (N, BLOCK_D) in the cells that exist, addressed as in :func:`load_cells`."""
    dims = tl.arange(0, BLOCK_D)
    mask = exist[:, None] & (dims < HEAD_DIM)[None, :]
    pointers = start + (y * strides[3] + x * strides[4])[:, None] + dims[None, :] * strides[2]
    tl.store(pointers, values.to(start.dtype.element_ty), mask=mask)

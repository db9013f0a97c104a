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

from ..triton_support import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)

# lowest finite float32: subtracting it from an infinite logit gives no NaN
LOWEST = tl.constexpr(-(2.0**128 - 2.0**104))


@triton.jit
def locate(num_heads, tiles_y, tiles_x):
    """Return the image, head, tile row and tile column of this program."""
    program = tl.program_id(0)
    row = program // tiles_x
    head = (row // tiles_y).to(tl.int64)
    return head // num_heads, head % num_heads, row % tiles_y, program % tiles_x


@triton.jit
def first_cell(tile, spacing, TILE: tl.constexpr):
    """Return the first cell of a tile along an axis; the next ones are `spacing` apart."""
    return tile % spacing + tile // spacing * (TILE * spacing)


@triton.jit
def reflect(positions, length, FOLDS: tl.constexpr):
    """Fold positions into ``[0, length)`` by reflection at the first and the last pixel.

    Positions farther out than ``FOLDS`` folds can reach, which no query sees, become 0.
    """
    for _ in tl.static_range(FOLDS):
        positions = length - 1 - tl.abs(length - 1 - tl.abs(positions))
    return tl.maximum(positions, 0)


@triton.jit
def load_cells(start, cells, step, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the channels, `step` apart, of the cells at offsets `cells` (N,): (BLOCK_D, N).

    If Triton cannot prove an axis contiguous (mirrored cells are not), it places adjacent threads
    along the first. Cells come first, because they are contiguous in channels-first maps.
    """
    dims = tl.arange(0, BLOCK_D)
    pointers = start + cells[:, None] + dims[None, :] * step
    if HEAD_DIM == BLOCK_D:
        return tl.trans(tl.load(pointers))
    return tl.trans(tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0))


@triton.jit
def store_cells(start, cells, step, exist, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store `x` (N, BLOCK_D) in the cells that exist, addressed as in :func:`load_cells`."""
    dims = tl.arange(0, BLOCK_D)
    mask = exist[:, None] & (dims < HEAD_DIM)[None, :]
    pointers = start + cells[:, None] + dims[None, :] * step
    tl.store(pointers, x.to(start.dtype.element_ty), mask=mask)


@triton.jit
def dot(x, y):
    """Multiply matrices; half precision accumulates in float32, float32 keeps its precision."""
    # the interpreter would read bfloat16 bits as integers; products in float32 are exact, too
    if _INTERPRETED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    # float32 as three products of its leading and trailing bits, on the matrix units
    return tl.dot(x, y, input_precision="tf32x3")

# ruff: noqa: N803 (constants of compilation in capitals, as everywhere in Triton)
"""What the kernels of local attention share: tiles, mirrored borders, products.

A program owns a tile of ``TILE_Y × TILE_X`` cells (queries, or keys in the backward pass) and walks
the halo of cells that these see, ``ROWS × COLS`` at a time. Cells of one tile lie so far apart that
those they see lie `dilation` apart, too; counted in such steps, each axis is a window of ``KERNEL``
that moves by ``STEP`` from cell to cell, and no walked cell is left out by the dilation.
"""

import triton
import triton.language as tl

from ..triton_support import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)

# of float32; finite, so that it can be subtracted from what is infinite
LOWEST = tl.constexpr(-(2.0**128 - 2.0**104))


@triton.jit
def locate(num_heads, tiles_y, tiles_x):
    """Return the image, the head, and the tile's row and column of this program."""
    program = tl.program_id(0)
    row = program // tiles_x
    head = (row // tiles_y).to(tl.int64)
    return head // num_heads, head % num_heads, row % tiles_y, program % tiles_x


@triton.jit
def first_cell(tile, spacing, TILE: tl.constexpr):
    """Return the first cell of a tile along an axis; the next ones lie `spacing` apart."""
    return tile % spacing + tile // spacing * (TILE * spacing)


@triton.jit
def reflect(positions, length, FOLDS: tl.constexpr):
    """Fold positions into ``[0, length)`` by reflection at the first and the last pixel.

    Those farther out than so many folds can bring back, which nobody needs, end at 0.
    """
    for _ in tl.static_range(FOLDS):
        positions = length - 1 - tl.abs(length - 1 - tl.abs(positions))
    return tl.maximum(positions, 0)


@triton.jit
def load_cells(start, cells, step, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the channels, `step` apart, of the cells at these offsets (N,): (BLOCK_D, N).

    Where neither axis is known to be contiguous, as mirrored cells are not, neighbouring threads
    take neighbours along the first: cells, which in maps with channels outermost lie side by side.
    """
    dims = tl.arange(0, BLOCK_D)
    pointers = start + cells[:, None] + dims[None, :] * step
    if HEAD_DIM == BLOCK_D:
        return tl.trans(tl.load(pointers))
    return tl.trans(tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0))


@triton.jit
def store_cells(start, cells, step, exist, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store `x` (N, BLOCK_D) in the cells that exist, where :func:`load_cells` loads."""
    dims = tl.arange(0, BLOCK_D)
    mask = exist[:, None] & (dims < HEAD_DIM)[None, :]
    pointers = start + cells[:, None] + dims[None, :] * step
    tl.store(pointers, x.to(start.dtype.element_ty), mask=mask)


@triton.jit
def dot(x, y):
    """Multiply matrices; half precision adds up in float32, and float32 keeps its precision."""
    # the interpreter would take the bits of bfloat16 for integers; products are exact this way, too
    if _INTERPRETED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    # float32 in three products of its leading and trailing bits, on the matrix units
    return tl.dot(x, y, input_precision="tf32x3")

# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Parts of Triton kernels that several operators share: tiles of a map, and products of blocks."""

import triton
import triton.language as tl

from .triton_support import INTERPRETED

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
def dot(x, y):
    """Multiply matrices; half precision accumulates in float32, float32 keeps its precision."""
    # the interpreter would read bfloat16 bits as integers; products in float32 are exact, too
    if _INTERPRETED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    # float32 as three products of its leading and trailing bits, on the matrix units
    return tl.dot(x, y, input_precision="tf32x3")

# ruff: noqa: N803 (constants of compilation in capitals, as everywhere in Triton)
"""What the kernels of routed attention share: nothing is gathered, regions are walked by indices.

All tokens of the regions that one region is routed to count as one row of keys, walked in blocks;
where in memory a key lies follows from its number. So regions of any size fill the blocks. Of
channels there are ``BLOCK_D``, a power of two; those from ``HEAD_DIM`` on are zeros.

A ``row`` is a region of the whole batch, ``b·R + i``. What the kernels write is contiguous; query,
key, value and the gradient of the output have any strides, but their channels lie side by side.
Logits are in base 2.
"""

import triton
import triton.language as tl

from ..triton_support import INTERPRETED

# no kernel is compiled anew for another number of these
COUNTS = ["num_queries", "num_keys", "num_heads", "query_tokens", "key_tokens", "topk"]

_INTERPRETED = tl.constexpr(INTERPRETED)

# of float32; finite, so that it can be subtracted from what is infinite
LOWEST = tl.constexpr(-(2.0**128 - 2.0**104))


@triton.jit
def load_tokens(start, tokens, inside, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the channels of one head at `tokens` (N,), zeros where not `inside`: (N, BLOCK_D)."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < HEAD_DIM)[None, :]
    return tl.load(start + tokens[:, None] + dims[None, :], mask=mask, other=0.0)


@triton.jit
def store_tokens(start, tokens, inside, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store `x` (N, BLOCK_D) where :func:`load_tokens` loads."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(start + tokens[:, None] + dims[None, :], x.to(start.dtype.element_ty), mask=mask)


@triton.jit
def dot(x, y):
    # the interpreter would take the bits of bfloat16 for integers; products are exact this way, too
    if _INTERPRETED:
        x, y = x.to(tl.float32), y.to(tl.float32)
    # float32 stays float32; for half precision the setting means nothing
    return tl.dot(x, y, input_precision="ieee")


@triton.jit
def locate(num_tokens, num_heads, BLOCK: tl.constexpr):
    """Return the row and the head of this program, its tokens, and which of these exist."""
    program = tl.program_id(0)
    num_blocks = tl.cdiv(num_tokens, BLOCK)
    tokens = program % num_blocks * BLOCK + tl.arange(0, BLOCK)
    head = program // num_blocks % num_heads
    row = (program // num_blocks // num_heads).to(tl.int64)
    return row, head, tokens, tokens < num_tokens


@triton.jit
def walk(first, length, regions, num_tokens, BLOCK: tl.constexpr):
    """Return region and token of the numbers from `first` on, and which are below `length`."""
    numbers = first + tl.arange(0, BLOCK)
    inside = numbers < length
    region = tl.load(regions + numbers // num_tokens, mask=inside, other=0)
    return region.to(tl.int64), numbers % num_tokens, inside

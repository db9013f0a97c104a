# ruff: noqa: N803 (compile-time constants are in capitals, as usual in Triton)
"""Shared parts of the Triton kernels of routed attention: regions are indexed, not gathered.

The tokens of all regions that one region is routed to form one sequence of keys, processed in
blocks; the number of a key in it determines its address. So regions of any size fill the blocks.
Channels are padded with zeros from ``HEAD_DIM`` to ``BLOCK_D``, a power of two.

A ``row`` is a region of the whole batch, ``b·R + i``. The kernels write contiguous tensors; query,
key, value and the gradient of the output may have any strides with contiguous channels. Logits are
in base 2.
"""

import triton
import triton.language as tl

# a new value of these parameters does not recompile a kernel
COUNTS = ["num_queries", "num_keys", "num_heads", "query_tokens", "key_tokens", "topk"]


@triton.jit
def load_tokens(start, tokens, inside, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the channels of one head at `tokens` (N,), zeros where not `inside`: (N, BLOCK_D)."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < HEAD_DIM)[None, :]
    return tl.load(start + tokens[:, None] + dims[None, :], mask=mask, other=0.0)


@triton.jit
def store_tokens(start, tokens, inside, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store `x` (N, BLOCK_D), addressed as in :func:`load_tokens`."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(start + tokens[:, None] + dims[None, :], x.to(start.dtype.element_ty), mask=mask)


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
    """Return region and index of the tokens from number `first` on, and which of them exist."""
    numbers = first + tl.arange(0, BLOCK)
    inside = numbers < length
    region = tl.load(regions + numbers // num_tokens, mask=inside, other=0)
    return region.to(tl.int64), numbers % num_tokens, inside

"""Pixel-shift attention in one Triton kernel that reads query, key and value without copying them.

Without a softmax the operator is linear in each of its three maps, so its derivatives are the
operator itself with the maps exchanged. With ``attend(query, key, value)(p) = Σ_n (query(p) ·
key(n)) value(n) / √d`` over the pixels n that p sees, and ``seen`` the same sum over the queries
that see a pixel::

    grad_query = attend(grad, value, key)
    grad_key   = seen(value, grad, query)
    grad_value = seen(key, query, grad)

Query p sees pixel n if ``query_step·p + δ = key_step·n`` for one of the K×K offsets δ. Offsets are
symmetric, so `seen` is `attend` with the two steps exchanged. Each program gathers the sums of its
own pixels: no atomics, deterministic results, and derivatives of any order.

The backward pass recomputes the weights. Storing them would save a third of its products but take
K² numbers per query and head, the size of several maps if heads are narrow; so only query, key and
value are saved.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import triton_support
from ..custom_gradient import with_gradient
from ..triton_support import count_tiles, divide_up, launch, power_of_two

# limited so that the weights of a tile stay in registers
MAX_KERNEL_SIZE = 7


class _Plan(NamedTuple):
    """Block sizes of the kernel: channels at a time, and rows and columns of a query tile."""

    BLOCK_D: int
    TILE_Y: int
    TILE_X: int


def unsupported_reason(query: Tensor, kernel_size: int) -> str | None:
    """Return why :func:`pixel_shift_attention_triton` cannot process `query`, or None."""
    if kernel_size > MAX_KERNEL_SIZE:
        return f"kernel_size must be at most {MAX_KERNEL_SIZE}, got {kernel_size=}"
    return triton_support.unsupported_reason(query.device, query.dtype)


def pixel_shift_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    num_heads: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute :func:`pixel_shift_attention_reference` in a Triton kernel."""
    # the map is zero at any distance outside, so clamping is exact and keeps 32-bit indices valid
    dilation = min(dilation, max(key.shape[2:]))
    return _attend_lean(query, key, value, kernel_size, num_heads, dilation, stride, 1, dtype)


def _attend_lean(query: Tensor, key: Tensor, value: Tensor, *settings: Any) -> Tensor:
    """Compute `_attend`, which checkpoints need not compute again for its gradient."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _attend(query, key, value, *settings)
    return with_gradient(_attend, _differentiate, query, key, value, *settings)


def _differentiate(grad, query, key, value, *settings) -> tuple[Tensor, ...]:
    """Return the gradients of query, key and value."""
    *sizes, query_step, key_step, _ = settings
    attend, seen = (query_step, key_step), (key_step, query_step)
    return (
        _attend_lean(grad, value, key, *sizes, *attend, query.dtype),
        _attend_lean(value, grad, query, *sizes, *seen, key.dtype),
        _attend_lean(key, query, grad, *sizes, *seen, value.dtype),
    )


# explicit schema, because torch versions differ in the annotations that they can parse
@torch.library.custom_op(
    "hybrid_backbones::pixel_shift_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int kernel_size, int num_heads, int dilation,"
    " int query_step, int key_step, ScalarType dtype) -> Tensor",
)
def _attend(query, key, value, kernel_size, num_heads, dilation, query_step, key_step, dtype):
    """Attend from each query to the pixels it sees; the output has the layout of `query`."""
    from .triton_kernel import attend_columns_kernel, attend_kernel

    out = torch.empty_like(query, dtype=dtype)
    batch, channels, height, width = query.shape
    head_dim = channels // num_heads
    plan = _plan(query, kernel_size, head_dim, key_step)
    tiles_y = count_tiles(height, key_step, plan.TILE_Y)
    tiles_x = count_tiles(width, key_step, plan.TILE_X)
    launch(
        attend_kernel if query.stride(1) == 1 else attend_columns_kernel,
        batch * num_heads * tiles_y * tiles_x,
        query,
        key,
        value,
        out,
        *(stride for x in (query, key, value, out) for stride in x.stride()),
        num_heads,
        height,
        width,
        *key.shape[2:],
        tiles_y,
        tiles_x,
        query_step,
        key_step,
        dilation,
        head_dim**-0.5,
        KERNEL=kernel_size,
        HEAD_DIM=head_dim,
        **plan._asdict(),
        num_warps=4,
        # many small programs already hide load latency; pipelining costs more than it saves
        num_stages=1,
    )
    return out


@_attend.register_fake
def _attend_like(query, key, value, kernel_size, num_heads, dilation, query_step, key_step, dtype):
    return torch.empty_like(query, dtype=dtype)


def _keep(ctx, inputs, output):
    query, key, value, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value)


_attend.register_autograd(
    # once: what runs again in the backward pass saves them for one access
    lambda ctx, grad: (*_differentiate(grad, *ctx.saved_tensors, *ctx.settings), *[None] * 6),
    setup_context=_keep,
)


def _plan(query: Tensor, kernel_size: int, head_dim: int, key_step: int) -> _Plan:
    """Choose tiles whose sums fill the registers of four warps without spilling on an H100."""
    # the longer side of a block follows the innermost axis in memory
    block_d, cells = (32, 16) if query.stride(1) == 1 else (8, 64)
    if kernel_size > 3:
        block_d, cells = block_d // 2, cells // 2
    narrow = min(block_d, power_of_two(head_dim))
    cells *= block_d // narrow
    columns = power_of_two(divide_up(query.shape[3], key_step))
    tile_x = min(16, cells // 4, columns)
    return _Plan(narrow, cells // tile_x, tile_x)

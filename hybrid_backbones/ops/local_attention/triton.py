"""Local attention in Triton kernels that read query, key and value without copying them.

Besides the output they write the maximum and the sum of each softmax. In the backward pass, each
key sums its gradients over the queries that see it or one of its mirror images: without atomics, so
the result is deterministic. Maps may have any strides; the kernels are fastest if the pixels of a
row or the channels of a pixel are contiguous.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import triton_support
from ..triton_support import count_tiles, divide_up, launch, power_of_two, register_gradient
from .tiled import local_attention_tiled

MAX_HEAD_DIM = 128
MAX_KERNEL_SIZE = 63
# columns of a block, with 65 to 128 channels in float32 the most for 99 KiB of shared memory
MAX_COLS = 64
# the kernels use 32-bit offsets within the map of one head
MAX_SPAN = 2**31 - 1


class _Steps(NamedTuple):
    """Stride and dilation divided by their greatest common divisor; see `triton_tiles`."""

    step: int  # shift of the window between adjacent queries of a tile, in units of `dilation`
    spacing: int  # distance between adjacent queries of a tile
    inverse: int  # step · inverse = 1 modulo spacing


class _Plan(NamedTuple):
    """Sizes of the tile that a program owns and of the block that it loads at a time."""

    TILE_Y: int
    TILE_X: int
    ROWS: int
    COLS: int


def unsupported_reason(query: Tensor, key: Tensor, value: Tensor, kernel_size: int) -> str | None:
    """Return why :func:`local_attention_triton` cannot process these maps, or None if it can."""
    if query.shape[2] > MAX_HEAD_DIM:
        return f"a head may have at most {MAX_HEAD_DIM} channels, got {query.shape[2]}"
    if kernel_size > MAX_KERNEL_SIZE:
        return f"kernel_size must be at most {MAX_KERNEL_SIZE}, got {kernel_size=}"
    if any(_span(x) > MAX_SPAN for x in (query, key, value)):
        return f"the map of one head may span at most {MAX_SPAN} elements in memory"
    return triton_support.unsupported_reason(query.device, query.dtype)


def local_attention_triton(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Compute :func:`local_attention_reference` in Triton kernels."""
    return _forward(query, key, value, kernel_size, stride, dilation)[0]


# explicit schema, because torch versions differ in the annotations that they can parse
@torch.library.custom_op(
    "hybrid_backbones::local_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int kernel_size, int stride, int dilation)"
    " -> (Tensor, Tensor, Tensor)",
)
def _forward(query, key, value, kernel_size, stride, dilation):
    """Return the output, and the maximum (unscaled) and sum of each softmax, both (B, h, H', W').

    A single log-sum-exp instead of the two would round large logits.
    """
    from .triton_forward import forward_kernel

    out, tops, totals = _forward_like(query, key, value, kernel_size, stride, dilation)
    steps = _reduce(stride, dilation)
    _launch(
        forward_kernel,
        (query, key, value, out),
        (tops, totals),
        query,
        steps.spacing,
        _plan(query, lambda num_queries: (num_queries - 1) * steps.step + kernel_size),
        (stride, dilation, steps.spacing, _scale(query)),
        KERNEL=kernel_size,
        STEP=steps.step,
        **_folds(key, kernel_size, dilation),
    )
    return out, tops, totals


@_forward.register_fake
def _forward_like(query, key, value, kernel_size, stride, dilation):
    shape = query.shape[:2] + query.shape[3:]
    tops, totals = (query.new_empty(shape, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(query), tops, totals


@torch.library.custom_op(
    "hybrid_backbones::local_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor out, Tensor tops,"
    " Tensor totals, int kernel_size, int stride, int dilation) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad, query, key, value, out, tops, totals, kernel_size, stride, dilation):
    """Return the gradients of query, key and value."""
    from .triton_backward import key_value_gradient_kernel
    from .triton_forward import query_gradient_kernel

    if _span(grad) > MAX_SPAN:  # a slice of a larger tensor
        grad = grad.contiguous()
    settings = (kernel_size, stride, dilation)
    grads = _backward_like(grad, query, key, value, out, tops, totals, *settings)
    delta = torch.empty_like(tops)
    steps = _reduce(stride, dilation)
    scales = (_scale(query), query.shape[2] ** -0.5)
    _launch(
        query_gradient_kernel,
        (query, key, value, out, grad, grads[0]),
        (tops, totals, delta),
        query,
        steps.spacing,
        _plan(query, lambda num_queries: (num_queries - 1) * steps.step + kernel_size),
        (stride, dilation, steps.spacing, *scales),
        KERNEL=kernel_size,
        STEP=steps.step,
        **_folds(key, kernel_size, dilation),
    )
    _launch(
        key_value_gradient_kernel,
        (query, key, value, grad, *grads[1:]),
        (tops, totals, delta),
        key,
        dilation,
        _plan(key, lambda num_keys: (num_keys + kernel_size - 2) // steps.step + 1),
        (stride, dilation, *steps[1:], *_panels(key, kernel_size, dilation), *scales),
        KERNEL=kernel_size,
        STEP=steps.step,
    )
    return grads


@_backward.register_fake
def _backward_like(grad, query, key, value, out, tops, totals, kernel_size, stride, dilation):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


register_gradient(_forward, _backward, local_attention_tiled)


def _launch(
    kernel,
    maps: tuple[Tensor, ...],
    statistics: tuple[Tensor, ...],
    owned: Tensor,
    spacing: int,
    plan: _Plan,
    numbers: tuple[float, ...],
    **constants: int,
) -> None:
    """Run one program per tile of `owned`; the cells of a tile are `spacing` apart."""
    query, key = maps[:2]
    batch, num_heads, head_dim, height, width = owned.shape
    tiles_y = count_tiles(height, spacing, plan.TILE_Y)
    tiles_x = count_tiles(width, spacing, plan.TILE_X)
    launch(
        kernel,
        batch * num_heads * tiles_y * tiles_x,
        *maps,
        *statistics,
        tuple(x.stride() for x in maps),
        num_heads,
        *query.shape[3:],
        *key.shape[3:],
        tiles_y,
        tiles_x,
        *numbers,
        HEAD_DIM=head_dim,
        BLOCK_D=power_of_two(head_dim, least=16),
        **constants,
        **plan._asdict(),
        num_warps=4,
        # many small programs already hide load latency; pipelining costs more than it saves
        num_stages=1,
    )


def _plan(owned: Tensor, loaded: Callable[[int], int]) -> _Plan:
    """Choose the sides of the tile that loads the fewest cells.

    Args:
        owned: map whose cells the programs own, query or key.
        loaded: function from the number of cells that a tile owns along an axis to the number of
            cells that it loads along this axis.
    """
    num_owned, num_loaded = _sizes(owned)

    def cost(tile_x: int) -> int:
        return loaded(num_owned // tile_x) * power_of_two(loaded(tile_x), least=16)

    # wide blocks, of large strides, would not fit into shared memory
    narrow = (x for x in (8, 16, 4, 2, 1) if x == 1 or loaded(x) <= MAX_COLS)
    tile_x = min(narrow, key=cost)
    cols = power_of_two(loaded(tile_x), least=16)
    return _Plan(num_owned // tile_x, tile_x, max(1, num_loaded // cols), cols)


def _sizes(x: Tensor) -> tuple[int, int]:
    """Return the number of cells that a program owns, and of those that it loads at a time.

    Chosen to limit register spilling when compiled for an H100 with K = 7: at most 48 bytes per
    thread with 128 channels.
    """
    head_dim = x.shape[2]
    if x.dtype != torch.float32:
        return (64, 32) if head_dim <= 64 else (32, 32)
    if head_dim <= 32:
        return (64, 32) if head_dim <= 16 else (64, 16)
    return (32, 16) if head_dim <= 64 else (16, 16)


def _reduce(stride: int, dilation: int) -> _Steps:
    common = math.gcd(stride, dilation)
    step, spacing = stride // common, dilation // common
    return _Steps(step, spacing, pow(step, -1, spacing))


def _folds(key: Tensor, kernel_size: int, dilation: int) -> dict[str, int]:
    """Return, per axis, how often the farthest neighbour is reflected until it is in the map."""
    radius = dilation * (kernel_size // 2)
    spans = (max(length - 1, 1) for length in key.shape[3:])
    folds = (divide_up(span + radius, 2 * span) for span in spans)
    return dict(zip(("FOLDS_Y", "FOLDS_X"), folds, strict=True))


def _panels(key: Tensor, kernel_size: int, dilation: int) -> list[int]:
    """Return, per axis, how many mirror images of the map on each side have neighbours in them."""
    radius = dilation * (kernel_size // 2)
    return [divide_up(radius, max(length - 1, 1)) for length in key.shape[3:]]


def _scale(query: Tensor) -> float:
    """Return the logit scale for a softmax in base 2."""
    return math.log2(math.e) * query.shape[2] ** -0.5


def _span(x: Tensor) -> int:
    return sum((x.shape[i] - 1) * x.stride(i) for i in (2, 3, 4))

"""Local attention in tiles: adjacent queries share one halo of keys and values.

A tile of 8×8 queries attends to 14×14 keys (for K = 7). Copying these halos costs three times the
memory of the map instead of K² times, and one small mask, the same for every tile, restricts
attention to the neighbourhoods. Maps are flattened to rows of channels, one per pixel; index
tables that depend only on sizes list the rows of each tile and halo, so one gather builds them.

A few tiles are computed at a time, so that their copies and weights stay in cache. The backward
pass gathers them again and recomputes the weights: only the input maps are saved.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import join_heads, split_heads
from ..own_gradient import with_gradient
from ..size_cache import cached_by_size, is_traced
from ..softmax_attention import attention_gradients
from .borders import reflect

# side of a tile in queries: smaller tiles copy more halo, larger ones compute more masked logits
MAX_TILE = 8

# number of values that the tiles computed at a time may hold: a CPU is fastest if those of each
# thread fit into its cache, and on a GPU few tiles at a time mean many kernel launches
WORKSPACE = 2**23
WORKSPACE_ON_CPU = 2**20


class _Axis(NamedTuple):
    """Tiling of one axis of the map."""

    queries: Tensor  # (tiles, tile) query of each slot, the last query in empty slots
    empty: Tensor  # (tiles, tile) True where a slot has no query
    keys: Tensor  # (tiles, halo) key of each slot, reflected at the borders
    visible: Tensor  # (tile, halo) True where a key is a neighbour of a query


class _Tiling(NamedTuple):
    """Tiling of a map, with N query slots and M key slots per tile."""

    query: Tensor  # (tiles, N) row of query in each slot
    empty: Tensor  # (tiles, N) True where a slot has no query
    key: Tensor  # (tiles, M) row of key and value in each slot
    visible: Tensor  # (N, M) True where a key is a neighbour of a query


class _Sizes(NamedTuple):
    """Sizes of the maps and settings of the operator."""

    batch: int
    num_heads: int
    height: int
    width: int
    key_height: int
    key_width: int
    kernel_size: int
    stride: int
    dilation: int


def local_attention_tiled(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Compute :func:`local_attention_reference` in tiles; shapes as in :func:`local_attention`."""
    batch, num_heads, head_dim, height, width = query.shape
    rows = (x.permute(0, 3, 4, 1, 2).flatten(3).flatten(0, 2) for x in (query, key, value))
    settings = kernel_size, stride, dilation
    sizes = _Sizes._make((batch, num_heads, height, width, *key.shape[3:], *settings))
    out = with_gradient(_attend, _differentiate, *rows, sizes)  # (B·H'·W', C)
    return out.view(batch, height, width, num_heads, head_dim).permute(0, 3, 4, 1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, sizes: _Sizes) -> Tensor:
    """Attend from rows ``(B·H'·W', C)`` of query to rows ``(B·H·W, C)`` of key and value."""
    out = torch.zeros_like(query)
    # in half precision PyTorch's fused kernels for GPUs are wrong at large logits
    dtype = torch.promote_types(query.dtype, torch.float32) if query.is_cuda else query.dtype
    for tiles in _some_tiles(query, sizes):
        queries = _take(query, tiles.query, sizes).to(dtype)
        keys, values = (_take(x, tiles.key, sizes).to(dtype) for x in (key, value))
        slots = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=tiles.visible
        )  # (tiles, h, N, d)
        _add(out, tiles.query, slots.masked_fill(tiles.empty[:, None, :, None], 0))
    return out


def _differentiate(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, sizes: _Sizes
) -> tuple[Tensor, ...]:
    # many tiles add to one key: a sum in half precision would lose small terms
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = (query.shape[1] // sizes.num_heads) ** -0.5
    grads = [torch.zeros_like(x, dtype=dtype) for x in (query, key, value)]
    visible = _cut_map(*sizes[2:], device=query.device).visible
    bias = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, float("-inf"))
    for tiles in _some_tiles(query, sizes):
        rows = tiles.query, tiles.key, tiles.key
        *maps, grad_slots = (
            _take(x, index, sizes).to(dtype).contiguous()
            for x, index in zip((query, key, value, grad), (*rows, tiles.query), strict=True)
        )
        grad_slots = grad_slots.masked_fill(tiles.empty[:, None, :, None], 0)
        *slots, _ = attention_gradients(grad_slots, *maps, bias=bias[None, None], scale=scale)
        for total, index, x in zip(grads, rows, slots, strict=True):
            _add(total, index, x)
    return tuple(x.to(query.dtype) for x in grads)


def _some_tiles(query: Tensor, sizes: _Sizes) -> Iterator[_Tiling]:
    """Yield groups of tiles, with row indices that run through the whole batch."""
    batch, num_heads, *settings = sizes
    tiling = _cut_map(*settings, device=query.device)
    num_rows = sizes.height * sizes.width, sizes.key_height * sizes.key_width
    maps = torch.arange(batch, device=query.device)[:, None, None]
    rows, keys = (
        (index + maps * length).flatten(0, 1)
        for index, length in zip((tiling.query, tiling.key), num_rows, strict=True)
    )  # (B·tiles, N) and (B·tiles, M)
    empty = tiling.empty.repeat(batch, 1)
    num_tiles = len(rows)
    # all tiles at once in a trace, which would unroll the loop
    if not is_traced(query.device):
        num_queries, num_keys = tiling.visible.shape
        # query, key, value, their gradients and that of the output; weights and two gradients
        values = (3 * num_queries + 4 * num_keys) * query.shape[1]
        values += 3 * num_heads * num_queries * num_keys
        on_cpu = query.device.type == "cpu"
        workspace = WORKSPACE_ON_CPU * torch.get_num_threads() if on_cpu else WORKSPACE
        num_tiles = max(1, workspace // values)
    for start in range(0, len(rows), max(1, num_tiles)):
        part = slice(start, start + num_tiles)
        yield _Tiling(rows[part], empty[part], keys[part], tiling.visible)


def _take(rows: Tensor, index: Tensor, sizes: _Sizes) -> Tensor:
    """Gather rows ``(N, C)`` into the slots of tiles, ``(tiles, h, slots, d)``."""
    slots = rows.index_select(0, index.flatten()).unflatten(0, index.shape)
    return split_heads(slots, sizes.num_heads)


def _add(rows: Tensor, index: Tensor, slots: Tensor) -> None:
    """Add the slots of tiles, ``(tiles, h, slots, d)``, to the rows they were gathered from."""
    rows.index_add_(0, index.flatten(), join_heads(slots).flatten(0, 1).to(rows.dtype))


@cached_by_size
def _cut_map(
    height: int,
    width: int,
    key_height: int,
    key_width: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    *,
    device: torch.device,
) -> _Tiling:
    rows = _cut_axis(height, key_height, kernel_size, stride, dilation, device)
    cols = _cut_axis(width, key_width, kernel_size, stride, dilation, device)
    query = _outer_sum(rows.queries * width, cols.queries)
    empty = _outer_sum(rows.empty, cols.empty)
    key = _outer_sum(rows.keys * key_width, cols.keys)
    visible = rows.visible[:, None, :, None] & cols.visible[None, :, None, :]
    return _Tiling(query, empty, key, visible.flatten(2).flatten(0, 1))


def _cut_axis(
    num_queries: int, num_keys: int, kernel_size: int, stride: int, dilation: int, device
) -> _Axis:
    num_tiles = -(-num_queries // MAX_TILE)
    tile = -(-num_queries // num_tiles)
    halo = (tile - 1) * stride + (kernel_size - 1) * dilation + 1
    query = torch.arange(num_tiles * tile, device=device).view(num_tiles, tile)
    key = torch.arange(halo, device=device)
    first = query[:, :1] * stride - kernel_size // 2 * dilation
    # offset of each key from the first neighbour of each query, in pixels
    offset = key - query[0, :, None] * stride
    visible = (offset >= 0) & (offset < kernel_size * dilation) & (offset % dilation == 0)
    last = num_queries - 1
    return _Axis(query.clamp(max=last), query > last, reflect(first + key, num_keys), visible)


def _outer_sum(rows: Tensor, cols: Tensor) -> Tensor:
    """Add ``(tile rows, y)`` and ``(tile columns, x)``, booleans by or: ``(tiles, y·x)``."""
    return (rows[:, None, :, None] + cols[None, :, None, :]).flatten(2).flatten(0, 1)

"""Local attention in tiles: adjacent queries share one halo of keys and values.

The queries are divided into tiles of at most 8×8. Together, the neighbourhoods of 8×8 queries cover
a halo of 14×14 keys (for K = 7), so copying the halos of all tiles takes three times the memory of
the map, and unfolding all neighbourhoods K² times. Attention from a tile to its halo is dense; a
mask, the same for all tiles, restricts each query to its own neighbourhood.

Maps are flattened to matrices ``(B·H·W, C)`` with one row per pixel. Index tables, which depend on
sizes only, list the rows of each tile and each halo. A few tiles are computed at a time, so that
their copies and weights stay in the cache. The backward pass gathers the rows again and recomputes
the weights: only the input maps are saved.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import are_known, ceil_div, join_heads, split_heads
from ..custom_gradient import with_gradient
from ..device_choices import fits_caches
from ..size_cache import cached_by_size, is_traced
from ..softmax_attention import attention_gradients
from .borders import reflect

# side of a tile, in queries: smaller tiles copy larger halos, larger tiles mask more logits
MAX_TILE = 8

# number of values held by the tiles that are computed at a time: a CPU is fastest if those of each
# thread fit into its cache, while on a GPU fewer tiles at a time need more kernel launches
WORKSPACE = 2**23
WORKSPACE_ON_CPU = 2**20


class _AxisTiles(NamedTuple):
    """Tiles of one axis of the map; the last one is padded with copies of the last query."""

    queries: Tensor  # (tiles, tile) coordinate of each query
    padding: Tensor  # (tiles, tile) True for padding
    keys: Tensor  # (tiles, halo) coordinate of each key, reflected at the borders
    neighbours: Tensor  # (tile, halo) True where a key is a neighbour of a query


class _Tiles(NamedTuple):
    """Tiles of N queries, padding included, with halos of M keys."""

    queries: Tensor  # (tiles, N) row of each query
    padding: Tensor  # (tiles, N) True for padding
    keys: Tensor  # (tiles, M) row of each key and its value
    neighbours: Tensor  # (N, M) True where a key is a neighbour of a query


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
    """Attend from query ``(B·H'·W', C)`` to key and value ``(B·H·W, C)``."""
    out = torch.zeros_like(query)
    # in half precision PyTorch's fused kernels for GPUs are wrong at large logits
    dtype = torch.promote_types(query.dtype, torch.float32) if query.is_cuda else query.dtype
    for tiles in _tiles_at_a_time(query, sizes):
        queries = _gather(query, tiles.queries, sizes).to(dtype)
        keys, values = (_gather(x, tiles.keys, sizes).to(dtype) for x in (key, value))
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=tiles.neighbours
        )  # (tiles, h, N, d)
        _scatter_add(out, tiles.queries, attended.masked_fill(tiles.padding[:, None, :, None], 0))
    return out


def _differentiate(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, sizes: _Sizes
) -> tuple[Tensor, ...]:
    """Return the gradients of query, key and value."""
    # the halos of several tiles overlap, and a sum in half precision would lose small terms
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = (query.shape[1] // sizes.num_heads) ** -0.5
    grads = [torch.zeros_like(x, dtype=dtype) for x in (query, key, value)]
    neighbours = _tile_map(*sizes[2:], device=query.device).neighbours
    bias = torch.zeros_like(neighbours, dtype=dtype).masked_fill(~neighbours, float("-inf"))
    for tiles in _tiles_at_a_time(query, sizes):
        rows = tiles.queries, tiles.keys, tiles.keys
        *maps, grad_out = (
            _gather(x, index, sizes).to(dtype).contiguous()
            for x, index in zip((query, key, value, grad), (*rows, tiles.queries), strict=True)
        )
        grad_out = grad_out.masked_fill(tiles.padding[:, None, :, None], 0)
        *parts, _ = attention_gradients(grad_out, *maps, bias=bias[None, None], scale=scale)
        for total, index, x in zip(grads, rows, parts, strict=True):
            _scatter_add(total, index, x)
    return tuple(x.to(query.dtype) for x in grads)


def _tiles_at_a_time(query: Tensor, sizes: _Sizes) -> Iterator[_Tiles]:
    """Yield the tiles of the whole batch, as many at a time as the workspace holds."""
    batch, num_heads, *settings = sizes
    tiles = _tile_map(*settings, device=query.device)
    num_rows = sizes.height * sizes.width, sizes.key_height * sizes.key_width
    maps = torch.arange(batch, device=query.device)[:, None, None]
    queries, keys = (
        (index + maps * length).flatten(0, 1)
        for index, length in zip((tiles.queries, tiles.keys), num_rows, strict=True)
    )  # (B·tiles, N) and (B·tiles, M)
    padding = tiles.padding.repeat(batch, 1)
    if is_traced(query.device):
        # all tiles at once: a graph would unroll the loop, and be of one size
        yield _Tiles(queries, padding, keys, tiles.neighbours)
        return
    num_queries, num_keys = tiles.neighbours.shape
    # query, key, value, their gradients and that of the output; weights and two gradients
    values = (3 * num_queries + 4 * num_keys) * query.shape[1]
    values += 3 * num_heads * num_queries * num_keys
    workspace = WORKSPACE
    if fits_caches(query.device):
        workspace = WORKSPACE_ON_CPU * torch.get_num_threads()
    num_tiles = max(1, workspace // values)
    for start in range(0, len(queries), num_tiles):
        part = slice(start, start + num_tiles)
        yield _Tiles(queries[part], padding[part], keys[part], tiles.neighbours)


def _gather(rows: Tensor, index: Tensor, sizes: _Sizes) -> Tensor:
    """Gather the rows ``(B·H·W, C)`` at indices ``(tiles, N)``: ``(tiles, h, N, d)``."""
    gathered = rows.index_select(0, index.flatten()).unflatten(0, index.shape)
    return split_heads(gathered, sizes.num_heads)


def _scatter_add(rows: Tensor, index: Tensor, x: Tensor) -> None:
    """Add ``(tiles, h, N, d)`` to the rows from which :func:`_gather` read them."""
    rows.index_add_(0, index.flatten(), join_heads(x).flatten(0, 1).to(rows.dtype))


@cached_by_size
def _tile_map(
    height: int,
    width: int,
    key_height: int,
    key_width: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    *,
    device: torch.device,
) -> _Tiles:
    """Divide the queries of one map into tiles."""
    rows = _tile_axis(height, key_height, kernel_size, stride, dilation, device)
    cols = _tile_axis(width, key_width, kernel_size, stride, dilation, device)
    queries = _outer_sum(rows.queries * width, cols.queries)
    padding = _outer_sum(rows.padding, cols.padding)
    keys = _outer_sum(rows.keys * key_width, cols.keys)
    neighbours = rows.neighbours[:, None, :, None] & cols.neighbours[None, :, None, :]
    return _Tiles(queries, padding, keys, neighbours.flatten(2).flatten(0, 1))


def _tile_axis(
    num_queries: int, num_keys: int, kernel_size: int, stride: int, dilation: int, device
) -> _AxisTiles:
    """Divide the queries of one axis into the fewest tiles, of equal size."""
    num_tiles = ceil_div(num_queries, MAX_TILE)
    # in a graph for any size, sides of tiles that depend on it would take minutes to compile
    tile = ceil_div(num_queries, num_tiles) if are_known(num_queries) else MAX_TILE
    halo = (tile - 1) * stride + (kernel_size - 1) * dilation + 1
    query = torch.arange(num_tiles * tile, device=device).view(num_tiles, tile)
    key = torch.arange(halo, device=device)
    first = query[:, :1] * stride - kernel_size // 2 * dilation
    # offset of each key from the first neighbour of each query, in pixels
    offset = key - query[0, :, None] * stride
    neighbours = (offset >= 0) & (offset < kernel_size * dilation) & (offset % dilation == 0)
    last = num_queries - 1
    keys = reflect(first + key, num_keys)
    return _AxisTiles(query.clamp(max=last), query > last, keys, neighbours)


def _outer_sum(rows: Tensor, cols: Tensor) -> Tensor:
    """Combine the tables of both axes, ``(tiles, N)`` each, to one of all pairs, by sum or 'or'."""
    return (rows[:, None, :, None] + cols[None, :, None, :]).flatten(2).flatten(0, 1)

"""Local attention in tiles: neighbouring queries share one halo of keys and values.

The queries of a tile of 8×8 pixels look at 14×14 keys (for K = 7). Copying such halos costs three
times the map instead of K² times, and `scaled_dot_product_attention` with one small mask, the same
for every tile, does the rest.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .borders import reflect

# the side of a tile in queries: smaller copies more halo, larger computes more masked logits
MAX_TILE = 8


class _Axis(NamedTuple):
    """How one axis of the map is cut into tiles."""

    num_tiles: int
    tile: int  # queries
    halo: int  # keys that the queries of one tile see
    positions: Tensor  # (num_tiles · halo,) index of each key of each halo, reflected
    visible: Tensor  # (tile, halo) whether a query has a key among its neighbours


def local_attention_tiled(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Compute what :func:`local_attention_reference` defines, in tiles."""
    batch, num_heads, head_dim, height, width = query.shape
    rows = _cut(height, key.shape[3], kernel_size, stride, dilation, query.device)
    cols = _cut(width, key.shape[4], kernel_size, stride, dilation, query.device)
    visible = rows.visible[:, None, :, None] & cols.visible[None, :, None, :]
    visible = visible.flatten(2).flatten(0, 1)  # (tile queries, halo keys)
    mask = torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, float("-inf"))

    tiles = F.scaled_dot_product_attention(
        _query_tiles(query, rows, cols),
        _halo_tiles(key, rows, cols),
        _halo_tiles(value, rows, cols),
        attn_mask=mask,
    )  # (B·tiles, h, tile queries, d)
    tiles = tiles.view(
        batch, rows.num_tiles, cols.num_tiles, num_heads, rows.tile, cols.tile, head_dim
    )
    out = tiles.permute(0, 3, 6, 1, 4, 2, 5)  # (B, h, d, tile rows, y, tile columns, x)
    return out.flatten(5, 6).flatten(3, 4)[..., :height, :width]


def _cut(
    num_queries: int, num_keys: int, kernel_size: int, stride: int, dilation: int, device
) -> _Axis:
    num_tiles = -(-num_queries // MAX_TILE)
    tile = -(-num_queries // num_tiles)
    halo = (tile - 1) * stride + (kernel_size - 1) * dilation + 1
    key = torch.arange(halo, device=device)
    first = torch.arange(num_tiles, device=device) * (tile * stride) - kernel_size // 2 * dilation
    # distance of each key from the first neighbour of each query
    offset = key - torch.arange(tile, device=device)[:, None] * stride
    visible = (offset >= 0) & (offset < kernel_size * dilation) & (offset % dilation == 0)
    positions = reflect((first[:, None] + key).flatten(), num_keys)
    return _Axis(num_tiles, tile, halo, positions, visible)


def _query_tiles(query: Tensor, rows: _Axis, cols: _Axis) -> Tensor:
    """``(B, h, d, H', W')`` to ``(B·tiles, h, tile queries, d)``."""
    num_heads, head_dim, height, width = query.shape[1:]
    right, bottom = cols.num_tiles * cols.tile - width, rows.num_tiles * rows.tile - height
    query = F.pad(query, (0, right, 0, bottom))
    query = query.unflatten(4, (cols.num_tiles, cols.tile))
    query = query.unflatten(3, (rows.num_tiles, rows.tile))
    query = query.permute(0, 3, 5, 1, 4, 6, 2)  # (B, tile rows, tile columns, h, y, x, d)
    return query.reshape(-1, num_heads, rows.tile * cols.tile, head_dim)


def _halo_tiles(x: Tensor, rows: _Axis, cols: _Axis) -> Tensor:
    """``(B, h, d, H, W)`` to ``(B·tiles, h, halo keys, d)``."""
    num_heads, head_dim = x.shape[1:3]
    # channels innermost, so that the index operations move whole vectors, forward and backward
    x = x.permute(0, 3, 4, 1, 2).index_select(1, rows.positions).index_select(2, cols.positions)
    x = x.unflatten(2, (cols.num_tiles, cols.halo)).unflatten(1, (rows.num_tiles, rows.halo))
    x = x.permute(0, 1, 3, 5, 2, 4, 6)  # (B, tile rows, tile columns, h, y, x, d)
    return x.reshape(-1, num_heads, rows.halo * cols.halo, head_dim)

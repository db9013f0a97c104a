"""Local attention in tiles of fixed size, for exported graphs.

As in :mod:`.tiled`, attention from a tile of queries to its halo of keys is dense and masked. All
tiles have the same size at any size of the map, and are computed at once: the mask is a constant of
the graph, whose shapes depend on the size of the map only by the number of tiles.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import ceil_div, pad_to_multiple
from ..windows import crop
from .borders import reflect

# side of a tile, in queries
TILE = 8


def local_attention_fixed_tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    kernel_size: int,
    stride: int,
    dilation: int,
) -> Tensor:
    """Compute :func:`.local_attention_reference` in tiles, on tensors of at most four dimensions.

    Args:
        query: queries ``(B, C, H', W')``, channels head-major.
        key, value: keys and values ``(B, C, H, W)``.
        num_heads: number of attention heads h; must divide C.
        kernel_size, stride, dilation: as in :func:`.local_attention`.

    Returns:
        Weighted sums of values, ``(B, C, H', W')``.
    """
    batch, channels, height, width = query.shape
    grid = ceil_div(height, TILE), ceil_div(width, TILE)
    halo = (TILE - 1) * stride + (kernel_size - 1) * dilation + 1
    queries = _split(pad_to_multiple(query, TILE), num_heads, grid, TILE)
    # keys and values at once, for fewer operations in the graph
    maps = _halos(torch.cat([key, value], 1), grid, halo, kernel_size, stride, dilation)
    keys, values = _split(maps, 2 * num_heads, grid, halo).chunk(2, 1)
    mask = neighbours(halo, kernel_size, stride, dilation, query.device)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    out = out.transpose(1, 2).reshape(batch * grid[0], grid[1], TILE, TILE * channels)
    out = out.transpose(1, 2).reshape(batch, grid[0] * TILE, grid[1] * TILE, channels)
    return crop(out, (height, width)).permute(0, 3, 1, 2)


def neighbours(
    halo: int, kernel_size: int, stride: int, dilation: int, device: torch.device
) -> Tensor:
    """Return which keys of a halo are neighbours of each query of its tile, ``(T², M²)``."""
    # offset of each key from the first neighbour of each query, in pixels
    offset = torch.arange(halo, device=device) - stride * torch.arange(TILE, device=device)[:, None]
    near = (offset >= 0) & (offset < kernel_size * dilation) & (offset % dilation == 0)
    return (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)


def _halos(
    x: Tensor, grid: tuple[int, int], halo: int, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Copy the halos of all tiles: ``(B, C, H, W)`` to ``(B, C, rows · halo, columns · halo)``."""
    for dim, number in zip((2, 3), grid, strict=True):
        # no table of rows: torch.export would fix the number of tiles where there is one
        index = torch.arange(number * halo, device=x.device)
        positions = index // halo * (TILE * stride) + index % halo - kernel_size // 2 * dilation
        x = x.index_select(dim, reflect(positions, x.shape[dim]))
    return x


def _split(x: Tensor, num_heads: int, grid: tuple[int, int], side: int) -> Tensor:
    """Split ``(B, h·d, rows · side, columns · side)`` into ``(B · tiles, h, side², d)``."""
    batch, channels = x.shape[:2]
    x = x.permute(0, 2, 3, 1).reshape(batch * grid[0], side, grid[1], side * channels)
    x = x.transpose(1, 2).reshape(
        batch * grid[0] * grid[1], side * side, num_heads, channels // num_heads
    )
    return x.transpose(1, 2)

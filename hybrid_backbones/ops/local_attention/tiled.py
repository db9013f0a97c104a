"""Local attention in tiles: neighbouring queries share one halo of keys and values.

The queries of a tile of 8×8 pixels look at 14×14 keys (for K = 7). Copying such halos costs three
times the map instead of K² times, and `scaled_dot_product_attention` with one small mask, the same
for every tile, does the rest. A pixel is a row of its channels here: tables that depend on sizes
alone say which rows make up tiles and halos, and one copy of rows makes them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..size_cache import cached_by_size
from .borders import reflect

# the side of a tile in queries: smaller copies more halo, larger computes more masked logits
MAX_TILE = 8


class _Axis(NamedTuple):
    """How one axis of the map is cut into tiles."""

    queries: Tensor  # (tiles, tile) query of each slot of each tile, the last one where none is
    keys: Tensor  # (tiles, halo) key of each slot of each halo, reflected
    visible: Tensor  # (tile, halo) whether a query has a key among its neighbours


class _Tiling(NamedTuple):
    """How a map is cut into tiles; N slots for the queries of a tile, M for its keys."""

    query: Tensor  # (tiles · N,) row of query for each slot
    key: Tensor  # (tiles · M,) row of key and value for each slot
    out: Tensor  # (H'·W',) slot of each row of the output
    visible: Tensor  # (N, M) whether a query has a key among its neighbours


def local_attention_tiled(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Compute what :func:`local_attention_reference` defines, in tiles."""
    batch, num_heads, head_dim, height, width = query.shape
    settings = (height, width, *key.shape[3:], kernel_size, stride, dilation)
    tiling = _cut_map(*settings, device=query.device)
    num_queries, num_keys = tiling.visible.shape
    num_tiles = len(tiling.query) // num_queries
    # a trace that is saved takes no functions of Python
    gather = _gather if torch.jit.is_tracing() else _Gather.apply

    def cut(x: Tensor, table: str, num_slots: int) -> Tensor:
        rows = x.permute(0, 3, 4, 1, 2).flatten(3).flatten(1, 2)  # (B, H·W, C)
        slots = gather(rows, table, settings)  # (B · tiles · N or M, C)
        slots = slots.view(batch * num_tiles, num_slots, num_heads, head_dim)
        return slots.transpose(1, 2)  # (B·tiles, h, N or M, d)

    tiles = F.scaled_dot_product_attention(
        cut(query, "query", num_queries),
        *(cut(x, "key", num_keys) for x in (key, value)),
        attn_mask=tiling.visible,
    )  # (B·tiles, h, N, d)
    slots = tiles.transpose(1, 2).reshape(batch, len(tiling.query), num_heads * head_dim)
    out = gather(slots, "out", settings)  # (B·H'·W', C)
    return out.view(batch, height, width, num_heads, head_dim).permute(0, 3, 4, 1, 2)


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
    query = _pair(rows.queries * width, cols.queries)
    key = _pair(rows.keys * key_width, cols.keys)
    slots = torch.arange(len(query), device=device)
    slots = slots.view(len(rows.queries), len(cols.queries), -1, cols.queries.shape[1])
    out = slots.transpose(1, 2).flatten(2).flatten(0, 1)[:height, :width].flatten()
    visible = rows.visible[:, None, :, None] & cols.visible[None, :, None, :]
    return _Tiling(query, key, out, visible.flatten(2).flatten(0, 1))


def _cut_axis(
    num_queries: int, num_keys: int, kernel_size: int, stride: int, dilation: int, device
) -> _Axis:
    num_tiles = -(-num_queries // MAX_TILE)
    tile = -(-num_queries // num_tiles)
    halo = (tile - 1) * stride + (kernel_size - 1) * dilation + 1
    query = torch.arange(num_tiles * tile, device=device).view(num_tiles, tile)
    key = torch.arange(halo, device=device)
    first = query[:, :1] * stride - kernel_size // 2 * dilation
    # distance of each key from the first neighbour of each query
    offset = key - query[0, :, None] * stride
    visible = (offset >= 0) & (offset < kernel_size * dilation) & (offset % dilation == 0)
    return _Axis(query.clamp(max=num_queries - 1), reflect(first + key, num_keys), visible)


def _pair(rows: Tensor, cols: Tensor) -> Tensor:
    """Add ``(tile rows, y)`` and ``(tile columns, x)`` to ``(tiles · y · x,)``."""
    return (rows[:, None, :, None] + cols[None, :, None, :]).flatten()


def _gather(x: Tensor, table: str, settings: tuple[int, ...]) -> Tensor:
    """Copy rows of each map: ``(B, N, C)`` to ``(B · len(index), C)`` by a table of a tiling."""
    index = getattr(_cut_map(*settings, device=x.device), table)
    return x.flatten(0, 1).index_select(0, _repeat(index, x.shape[0], x.shape[1]))


class _Gather(torch.autograd.Function):
    """Compute :func:`_gather`.

    The gradient of a row is the sum of those of its copies. Each row reads its own, which is
    several times faster on a CPU than the scattered addition of `index_select`, and always adds in
    one order.
    """

    @staticmethod
    def forward(ctx, x: Tensor, table: str, settings: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.table, ctx.settings = x.shape, table, settings
        return _gather(x, table, settings)

    @staticmethod
    def backward(ctx, grad: Tensor):
        batch, num_rows, _ = ctx.shape
        copies, first = _find_copies(ctx.table, num_rows, *ctx.settings, device=grad.device)
        total = F.embedding_bag(
            _repeat(copies, batch, len(copies)),
            grad,
            _repeat(first, batch, len(copies)),
            mode="sum",
        )
        return total.view(ctx.shape), None, None


@cached_by_size
def _find_copies(
    table: str, num_rows: int, *settings: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Invert a table: the copies of all rows, one row after the other, and where each begins."""
    rows, copies = getattr(_cut_map(*settings, device=device), table).sort(stable=True)
    return copies, torch.searchsorted(rows, torch.arange(num_rows, device=device))


def _repeat(index: Tensor, batch: int, length: int) -> Tensor:
    """Repeat an index into `length` rows for each of the `batch` maps that follow one another."""
    first = torch.arange(batch, device=index.device)[:, None] * length
    return (index + first).flatten()

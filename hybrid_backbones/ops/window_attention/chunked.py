"""Window attention in chunks of windows, for CPUs: whole maps are never partitioned at once.

Maps are flattened to rows of channels, one per position. Each chunk of windows gathers its rows,
attends while they are in cache, and writes its rows of the result. The backward pass gathers them
again and recomputes the weights, so that none are saved.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...layers import join_heads, split_heads
from ..custom_gradient import with_gradient
from ..size_cache import cached_by_size
from ..softmax_attention import attention_gradients, attention_weights
from .shifted_windows import cross_region_pairs, partition_shifted_windows, window_regions

# number of values that a chunk may hold: fits a CPU's caches and amortises a dozen calls
WORKSPACE = 2**20


class _Windows(NamedTuple):
    """R windows of one map, with T positions each.

    Positions outside the map take the row of a position inside, which saves padding the map. A mask
    lets them attend only to each other: their keys and values are all equal, so they add nothing to
    the gradients of logits and bias. Their results are discarded.
    """

    rows: Tensor  # (R, T) row of the map at each position
    outside: Tensor | None  # (R, T) True outside the map; None if all positions are inside
    cross_region_mask: Tensor | None  # (R, 1, T, T) True across regions; None if there is only one


class _Chunk(NamedTuple):
    """The R windows of a chunk, from each of B maps."""

    sources: Tensor  # (B·R·T,) rows to read
    targets: Tensor  # (B·R·T,) rows to write
    cross_region_mask: Tensor | None  # (R, 1, T, T)
    lengths: tuple[int, int]  # B·R and T


def shifted_window_attention_chunked(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window_size: int, shift: int
) -> Tensor:
    """Compute :func:`hybrid_backbones.ops.shifted_window_attention` in chunks."""
    batch, _, *size = query.shape
    rows = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (query, key, value))  # (B·H·W, C)
    settings = (*size, window_size, shift)
    out = with_gradient(_attend, _differentiate, *rows, bias, batch, settings)
    return out.unflatten(0, (batch, *size)).permute(0, 3, 1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, batch: int, settings: tuple[int, ...]
) -> Tensor:
    """Compute attention within windows, on the rows ``(B·H·W, C)`` of all maps."""
    num_heads, exact = len(bias), torch.promote_types(query.dtype, torch.float32)
    bias, out = bias.to(exact), _empty_rows(query)
    for chunk in _chunks(query, bias, batch, settings):
        queries, keys, values = (
            _gather(x, chunk, num_heads).to(exact) for x in (query, key, value)
        )
        scale = queries.shape[3] ** -0.5
        weights = attention_weights(queries, keys, bias=_mask_bias(bias, chunk), scale=scale)
        _scatter(out, chunk, weights @ values)
    # no slice: autograd forbids callers to modify a view from a custom function in place
    return out.resize_(query.shape)


def _differentiate(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    batch: int,
    settings: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return the gradients of query, key, value and bias."""
    maps, num_heads = (grad, query, key, value), len(bias)
    exact = torch.promote_types(query.dtype, torch.float32)
    wide_bias, grads = bias.to(exact), [_empty_rows(x) for x in (query, key, value)]
    grad_bias = torch.zeros_like(wide_bias)
    for chunk in _chunks(query, wide_bias, batch, settings):
        heads = [_gather(x, chunk, num_heads).to(exact) for x in maps]
        *parts, grad_logits = attention_gradients(
            *heads, bias=_mask_bias(wide_bias, chunk), scale=heads[0].shape[3] ** -0.5
        )
        grad_bias += grad_logits.sum(0)
        for rows, x in zip(grads, parts, strict=True):
            _scatter(rows, chunk, x)
    return *(x[:-1] for x in grads), grad_bias.to(bias.dtype)


def _mask_bias(bias: Tensor, chunk: _Chunk) -> Tensor:
    """Set the bias to -inf between positions of different regions: ``(R or 1, h, T, T)``."""
    if chunk.cross_region_mask is None:
        return bias[None]
    return bias.masked_fill(chunk.cross_region_mask, float("-inf"))


def _chunks(x: Tensor, bias: Tensor, batch: int, settings: tuple[int, ...]) -> Iterator[_Chunk]:
    """Yield the windows of all maps, as many at a time as the workspace holds."""
    height, width, *_ = settings
    first = torch.arange(batch, device=x.device)[:, None, None] * (height * width)
    # three maps and three results; weights and two gradients of these
    values = bias.shape[1] * (6 * x.shape[1] + 3 * len(bias) * bias.shape[2])
    num_windows = max(1, WORKSPACE // (values * max(1, batch)))
    for rows, outside, cross_region_mask in _find_windows(*settings, device=x.device):
        for start in range(0, len(rows), num_windows):
            part = slice(start, start + num_windows)
            sources = targets = rows[part] + first  # (B, R, T)
            if outside is not None:
                targets = sources.masked_fill(outside[part], len(x))
            lengths = targets.shape[0] * targets.shape[1], targets.shape[2]
            mask = None if cross_region_mask is None else cross_region_mask[part]
            yield _Chunk(sources.flatten(), targets.flatten(), mask, lengths)


@cached_by_size
def _find_windows(
    height: int, width: int, window_size: int, shift: int, *, device: torch.device
) -> tuple[_Windows, ...]:
    """Return the windows within one region, then those at the far borders that may span more."""
    numbers = torch.arange(1, height * width + 1, device=device).view(1, 1, height, width)
    # -1 outside the map
    rows = partition_shifted_windows(numbers, window_size, shift)[0, :, :, 0] - 1
    rows = torch.where(rows < 0, rows.amax(1, keepdim=True), rows)
    regions = window_regions((height, width), window_size, shift, device)
    if regions is None:
        return (_Windows(rows, None, None),)
    # windows before the first padded or rolled position
    whole_rows, whole_columns = (max(0, side - shift) // window_size for side in (height, width))
    order = torch.arange(len(rows), device=device).view(-(-height // window_size), -1)
    whole = order[:whole_rows, :whole_columns].flatten()
    others = torch.cat([order[:whole_rows, whole_columns:].flatten(), order[whole_rows:].flatten()])
    regions = regions[others]
    return (
        _Windows(rows[whole], None, None),
        _Windows(rows[others], regions == 0, cross_region_pairs(regions)),
    )


def _empty_rows(x: Tensor) -> Tensor:
    """Allocate the rows of a result, and one more for positions outside the map."""
    return x.new_empty(len(x) + 1, x.shape[1])


def _gather(x: Tensor, chunk: _Chunk, num_heads: int) -> Tensor:
    """Gather the rows of a chunk, ``(B·H·W, C)`` to ``(B·R, h, T, d)``."""
    rows = x.index_select(0, chunk.sources).unflatten(0, chunk.lengths)
    return split_heads(rows, num_heads).contiguous()


def _scatter(out: Tensor, chunk: _Chunk, x: Tensor) -> None:
    """Write ``(B·R, h, T, d)`` to the rows of `out`, positions outside the map to the last."""
    rows = join_heads(x).flatten(0, 1)  # (B·R·T, C)
    out.index_copy_(0, chunk.targets, rows.to(out.dtype))

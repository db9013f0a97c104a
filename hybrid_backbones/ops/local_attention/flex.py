"""Local attention by FlexAttention: a mask of neighbours, and the weights of repeated keys."""

import torch
from torch import Tensor

from ..flex import flex_attend, mask_blocks, touched_by_blocks
from ..size_cache import cached_by_size
from .borders import reflect


def local_attention_flex(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Compute :func:`local_attention_reference` as masked attention of pixels to pixels.

    A key that the reflected border repeats m times has m times its weight, so ``log m`` is added to
    its logit; m is the product of those along the two axes.
    """
    queries, keys, values = (x.flatten(3).transpose(2, 3) for x in (query, key, value))
    exact = torch.promote_types(query.dtype, torch.float32)
    settings = (*query.shape[3:], *key.shape[3:], kernel_size, stride, dilation, exact)
    block_mask, repeat = _neighbours(*settings, device=query.device)
    out = flex_attend(queries, keys, values, block_mask=block_mask, score_mod=repeat)
    return out.transpose(2, 3).unflatten(3, query.shape[3:])


@cached_by_size
def _neighbours(
    query_height: int,
    query_width: int,
    key_height: int,
    key_width: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
    *,
    device: torch.device,
):
    """Return the mask of neighbours, and the function that adds ``log m`` to a logit."""
    settings = (kernel_size, stride, dilation, dtype, device)
    rows = _log_repeats(query_height, key_height, *settings)
    columns = _log_repeats(query_width, key_width, *settings)

    def repeat(logit: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = rows[query // query_width, key // key_width]
        return logit + row + columns[query % query_width, key % key_width]

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = rows[query // query_width, key // key_width]
        return row + columns[query % query_width, key % key_width] >= 0

    lengths = query_height * query_width, key_height * key_width
    queries, keys = (torch.arange(length, device=device) for length in lengths)
    # at least the blocks that see each other: some see a row at columns that they do not see
    blocks = _blocks_that_meet(rows, queries // query_width, keys // key_width)
    blocks &= _blocks_that_meet(columns, queries % query_width, keys % key_width)
    return mask_blocks(blocks[None], sees, lengths), repeat


def _log_repeats(
    num_queries: int,
    num_keys: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the logarithm of how often each query of an axis sees each key: ``(H', H)``."""
    offsets = dilation * torch.arange(-(kernel_size // 2), kernel_size // 2 + 1, device=device)
    centres = stride * torch.arange(num_queries, device=device)
    seen = reflect(centres[:, None] + offsets, num_keys)  # (H', K)
    repeats = torch.zeros(num_queries, num_keys, dtype=dtype, device=device)
    return repeats.scatter_add_(1, seen, torch.ones_like(seen, dtype=dtype)).log()


def _blocks_that_meet(log_repeats: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Return which blocks see each other along one axis, given each token's position on it."""
    num_queries, num_keys = log_repeats.shape
    seen = (log_repeats >= 0).float()
    return touched_by_blocks(queries, num_queries) @ seen @ touched_by_blocks(keys, num_keys).T > 0

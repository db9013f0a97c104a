"""Window attention on partitioned maps, by one call of scaled dot-product attention."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...layers import are_known, join_heads, split_heads
from .shifted_windows import cross_region_masks, join_shifted_windows, partition_shifted_windows

# heads, and windows merged into the batch, of one call: PyTorch's kernel for GPUs has either in a
# dimension of its grid, https://github.com/pytorch/pytorch/issues/142228
MAX_HEADS = 2**16 - 1


def shifted_window_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window_size: int, shift: int
) -> Tensor:
    """Compute :func:`hybrid_backbones.ops.shifted_window_attention` in one call."""
    size, num_heads = query.shape[2:], bias.shape[0]
    query, key, value = (
        split_heads(partition_shifted_windows(x, window_size, shift), num_heads)
        for x in (query, key, value)
    )  # (B, R, h, T, d)
    cross_region_mask = cross_region_masks(*size, window_size, shift, device=query.device)
    bias = bias.to(query.dtype)[None]  # (1, h, T, T)
    batch = (0, 1)  # one bias for all windows, so merge the windows into the batch
    if cross_region_mask is not None:
        bias = bias.masked_fill(cross_region_mask, float("-inf"))  # (R, h, T, T)
        num_windows = query.shape[1]
        if not are_known(num_windows) or num_windows * num_heads <= MAX_HEADS:
            batch = (1, 2)  # one bias per window, so merge the windows into the heads
            bias = bias.flatten(0, 1)[None]
        else:
            bias = bias.repeat(query.shape[0], 1, 1, 1)
    lengths = [query.shape[dim] for dim in batch]
    query, key, value = (x.flatten(*batch) for x in (query, key, value))
    out = _attend(query, key, value, bias)
    out = join_heads(out.unflatten(batch[0], lengths))  # (B, R, T, C)
    return join_shifted_windows(out, window_size, shift, size)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend within windows ``(N, h, T, d)`` with a bias ``(N or 1, h, T, T)``."""
    number = query.shape[0]
    if are_known(number) and number > MAX_HEADS:
        bias = bias.expand(number, -1, -1, -1)
        parts = (x.split(MAX_HEADS) for x in (query, key, value, bias))
        return torch.cat([_attend(*part) for part in zip(*parts, strict=True)])
    attend = partial(F.scaled_dot_product_attention, query, key, value, attn_mask=bias)
    if bias.requires_grad and not any(x.requires_grad for x in (query, key, value)):
        # for this gradient alone, PyTorch's kernel for GPUs reads what it has not kept,
        # https://github.com/pytorch/pytorch/issues/148476
        with sdpa_kernel(SDPBackend.MATH):
            return attend()
    return attend()

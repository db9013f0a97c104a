"""Pixel-shift attention by explicit shifts: the definition for the other implementations."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import join_groups


def pixel_shift_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    num_heads: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
) -> Tensor:
    """Shift key and value by each offset, and weight each value by ``query · shifted key``.

    Shapes as in :func:`hybrid_backbones.ops.pixel_shift_attention`. Memory: K² copies of key and
    value, as for unfolding.
    """
    # products may overflow in half precision
    exact = torch.promote_types(query.dtype, torch.float32)
    query, key, value = (x.to(exact) for x in (query, key, value))
    query = query.unflatten(1, (num_heads, -1)).unsqueeze(3)  # (B, h, d, 1, H', W')
    steps = [dilation * (i - kernel_size // 2) for i in range(kernel_size)]
    shifts = [(down, right) for down in steps for right in steps]
    keys, values = (
        torch.stack([_shift(x, *shift)[..., ::stride, ::stride] for shift in shifts], 2).unflatten(
            1, (num_heads, -1)
        )
        for x in (key, value)
    )  # (B, h, d, K², H', W')
    weights = (query * query.shape[2] ** -0.5 * keys).sum(2, keepdim=True)
    return join_groups((weights * values).sum(3)).to(dtype)


def _shift(x: Tensor, down: int, right: int) -> Tensor:
    """Return the map whose pixel ``(y, x)`` is ``(y + down, x + right)`` of `x`, zero outside."""
    height, width = x.shape[-2:]
    radius = max(abs(down), abs(right))
    padded = F.pad(x, (radius,) * 4)
    rows = slice(radius + down, radius + down + height)
    return padded[..., rows, radius + right : radius + right + width]

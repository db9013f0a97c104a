"""Pixel-shift attention by views: a shift is a window of one zero-padded map.

The K² windows are visited one after another, and what was computed of one is gone at the next.
Autograd keeps the query, the two padded maps, which all windows share, and the K² weights of each
pixel and head: memory grows with the number of pixels, and no shifted copy is ever kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_shift_attention_shifted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    num_heads: int,
    stride: int,
    dilation: int,
) -> Tensor:
    """Compute what :func:`pixel_shift_attention_reference` defines, window by window."""
    radius = dilation * (kernel_size // 2)
    key, value = (F.pad(x, (radius,) * 4) for x in (key, value))
    query, key, value = (x.unflatten(1, (num_heads, -1)) for x in (query, key, value))
    scale = query.shape[2] ** -0.5
    # what is summed here grows with the third power of the input
    wide = torch.promote_types(query.dtype, torch.float32)
    height, width = query.shape[-2:]
    out = 0
    for top in range(0, kernel_size * dilation, dilation):
        below = slice(top, top + height * stride, stride)
        # rows first: three gradients of this size are summed, and not nine
        key_rows, value_rows = key[..., below, :], value[..., below, :]
        for left in range(0, kernel_size * dilation, dilation):
            window = (..., slice(left, left + width * stride, stride))
            # (B, h, 1, H', W')
            weight = (query * key_rows[window]).sum(2, keepdim=True, dtype=wide)
            out = out + scale * weight * value_rows[window]
    return out.flatten(1, 2).to(query.dtype)

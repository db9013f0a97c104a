"""Window attention for exported graphs, of few operations on tensors of at most four dimensions.

The map is padded to whole windows on all sides instead of being rolled, so a window at its border
holds positions of one region only, and padding. One mask of the keys then suffices.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import are_known, ceil_div
from ..windows import crop, join_windows, partition_windows


def shifted_window_attention_exported(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window_size: int, shift: Any
) -> Tensor:
    """Compute :func:`hybrid_backbones.ops.shifted_window_attention` in a graph for any size."""
    (_, channels, *size), num_heads = query.shape, len(bias)
    window = window_size, window_size
    before = (window_size - shift) % window_size
    after = [ceil_div(side + before, window_size) * window_size - side - before for side in size]
    is_padded = not are_known(before, *after) or before or any(after)
    maps = [query, key, value]
    if is_padded:
        maps.append(query.new_ones(query.shape[0], 1, *size))
    x = torch.cat(maps, 1).permute(0, 2, 3, 1)  # (B, H, W, 3C + 1)
    if is_padded:
        x = F.pad(x, (0, 0, before, after[1], before, after[0]))
    padded = x.shape[1:3]
    windows = partition_windows(x, window)  # (B, R, T, 3C + 1)
    lengths = windows.shape[:3]
    rows = windows.flatten(0, 1)
    query, key, value = (
        x.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for x in rows[..., : 3 * channels].chunk(3, 2)
    )  # (B·R, h, T, d)
    if is_padded:
        outside = rows[:, None, None, :, -1] == 0  # (B·R, 1, 1, T)
        bias = bias.masked_fill(outside, float("-inf"))
    logits = query * query.shape[3] ** -0.5 @ key.transpose(2, 3) + bias
    out = (logits.softmax(3) @ value).transpose(1, 2)  # (B·R, T, h, d)
    out = join_windows(out.reshape(*lengths, channels), window, padded)
    return crop(out, size, (before, before)).permute(0, 3, 1, 2)

"""Relative position bias of window attention: a learned number for each offset and head.

Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030.
"""

import torch
from torch import Tensor


def relative_position_index(window: tuple[int, int]) -> Tensor:
    """Number the offsets between all pairs of positions of a window of h rows and w columns.

    Returns:
        ``(h·w, h·w)``: at ``[i, j]``, with dy rows and dx columns from j to i,
        ``(dy + h - 1) * (2w - 1) + dx + w - 1``.
    """
    height, width = window
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down = rows[:, None] - rows + height - 1
    right = columns[:, None] - columns + width - 1
    return down * (2 * width - 1) + right


def relative_position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Look up what is added to the logits.

    Args:
        table: ``((2h - 1)·(2w - 1), heads)``.
        index: ``(N, N)``, of :func:`relative_position_index`.

    Returns:
        ``(heads, N, N)``.
    """
    return table[index].permute(2, 0, 1)

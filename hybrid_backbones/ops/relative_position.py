"""Relative position bias of window attention: a learned scalar per offset and head.

Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030.
"""

import torch
from torch import Tensor


def relative_position_index(window: tuple[int, int]) -> Tensor:
    """Return the table indices for all pairs of positions of a window of h rows and w columns.

    Returns:
        Indices ``(h·w, h·w)``: ``(dy + h - 1) * (2w - 1) + dx + w - 1`` at ``[i, j]``, with dy rows
        and dx columns from j to i.
    """
    height, width = window
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down = rows[:, None] - rows + height - 1
    right = columns[:, None] - columns + width - 1
    return down * (2 * width - 1) + right


def relative_position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Look up the relative position bias of the logits.

    Args:
        table: learned bias ``((2h - 1)·(2w - 1), heads)``.
        index: table indices ``(N, N)`` from :func:`relative_position_index`, with ``N = h·w``.

    Returns:
        Relative position bias ``(heads, N, N)``.
    """
    return table[index].permute(2, 0, 1)

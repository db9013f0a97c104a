"""Shifted windows of a map: where they are, and which of their positions are neighbours.

Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030.
"""

import torch
from torch import Tensor

from ...layers import pad_to_multiple
from ..size_cache import cached_by_size
from ..windows import join_windows, partition_windows


def roll(x: Tensor, shift: int) -> Tensor:
    """Move ``(B, C, H, W)`` cyclically, by `shift` rows down and `shift` columns to the right."""
    return x.roll((shift, shift), (2, 3)) if shift else x


def cut_shifted_windows(x: Tensor, window_size: int, shift: int) -> Tensor:
    """Cut maps ``(B, C, H, W)`` into windows ``(B, n, N, C)`` that begin `shift` later.

    The map is extended by zeros to whole windows, then rolled: what is above and left of the first
    window shares one with what is at the other end.
    """
    x = roll(pad_to_multiple(x, window_size), -shift).permute(0, 2, 3, 1)
    return partition_windows(x, (window_size, window_size))


def join_shifted_windows(
    windows: Tensor, window_size: int, shift: int, size: tuple[int, int]
) -> Tensor:
    """Put windows of :func:`cut_shifted_windows` together to maps ``(B, C, H, W)``.

    Args:
        windows: ``(B, n, N, C)``.
        window_size: side of the windows.
        shift: as when they were cut.
        size: H and W.
    """
    height, width = (side + -side % window_size for side in size)
    x = join_windows(windows, (window_size, window_size), (height, width)).permute(0, 3, 1, 2)
    return roll(x, shift)[:, :, : size[0], : size[1]]


def window_regions(
    size: tuple[int, int], window_size: int, shift: int, device: torch.device
) -> Tensor | None:
    """Number the parts of shifted windows that are not neighbours in an H×W map.

    Returns:
        ``(n, N)``, equal within one part, 0 for padding; None where each window is one part.
    """
    if not shift and size[0] % window_size == size[1] % window_size == 0:
        return None
    # what was rolled to the other end shares a window with what has been there
    rows, columns = (torch.arange(side, device=device) < shift for side in size)
    parts = 1 + 2 * rows[:, None] + columns  # (H, W)
    return cut_shifted_windows(parts[None, None], window_size, shift)[0, :, :, 0]


def separate(regions: Tensor) -> Tensor:
    """Tell which two positions of a window differ in their region, ``(n, N)`` to (n, 1, N, N)."""
    return regions[:, None, :, None] != regions[:, None, None, :]


@cached_by_size
def separated_positions(
    height: int, width: int, window_size: int, shift: int, *, device: torch.device
) -> Tensor | None:
    """Tell which two positions of a window are not in one part of the map.

    Returns:
        ``(n, 1, N, N)``, boolean; None where each window is one part. Padding is with padding, so
        that no row is True as a whole.
    """
    regions = window_regions((height, width), window_size, shift, device)
    return None if regions is None else separate(regions)

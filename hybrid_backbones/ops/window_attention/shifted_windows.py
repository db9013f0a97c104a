"""Shifted windows of a map: partitioning, joining, and the mask between their regions.

Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...layers import are_known, at_least, ceil_div, pad_to_multiple
from ..size_cache import cached_by_size
from ..windows import crop, join_windows, partition_windows


def shift_within(size: Sequence[int], window_size: int, shift: int) -> int:
    """Return `shift`, or 0 for H×W maps of which a side is at most one window."""
    if are_known(*size):
        return shift if min(size) > window_size else 0
    for side in size:
        # 1 if the side exceeds the window, else 0
        shift = shift * (1 - at_least(1 - at_least(side - window_size, 0), 0))
    return shift


def roll(x: Tensor, shift: int) -> Tensor:
    """Roll maps ``(B, C, H, W)`` cyclically by `shift` rows down and `shift` columns right."""
    if are_known(shift):
        return x.roll((shift, shift), (2, 3)) if shift else x
    for dim in (2, 3):
        positions = torch.arange(x.shape[dim], device=x.device)
        x = x.index_select(dim, (positions - shift) % torch.full_like(positions, x.shape[dim]))
    return x


def partition_shifted_windows(x: Tensor, window_size: int, shift: int) -> Tensor:
    """Partition maps ``(B, C, H, W)`` into windows ``(B, R, T, C)``, shifted by `shift`.

    The map is zero-padded to whole windows, then rolled: positions above and left of the first
    window share a window with positions at the opposite border.
    """
    x = roll(pad_to_multiple(x, window_size), -shift).permute(0, 2, 3, 1)
    return partition_windows(x, (window_size, window_size))


def join_shifted_windows(
    windows: Tensor, window_size: int, shift: int, size: Sequence[int]
) -> Tensor:
    """Join the windows of :func:`partition_shifted_windows` into maps ``(B, C, H, W)``.

    Args:
        windows: shifted windows, ``(B, R, T, C)``.
        window_size: side of the windows, in positions.
        shift: shift with which the windows were cut, in positions.
        size: height H and width W of the maps, in positions.
    """
    height, width = (ceil_div(side, window_size) * window_size for side in size)
    x = join_windows(windows, (window_size, window_size), (height, width)).permute(0, 3, 1, 2)
    return crop(roll(x, shift).permute(0, 2, 3, 1), size).permute(0, 3, 1, 2)


def window_regions(
    size: Sequence[int], window_size: int, shift: int, device: torch.device
) -> Tensor | None:
    """Label the regions of shifted windows, which are not adjacent in an H×W map.

    Returns:
        Labels ``(R, T)``, equal within a region, 0 for padding; None if each window is one region.
    """
    if (
        are_known(shift, *size)
        and not shift
        and size[0] % window_size == size[1] % window_size == 0
    ):
        return None
    # positions rolled to the opposite border share a window with those already there
    rows, columns = (torch.arange(side, device=device) < shift for side in size)
    parts = 1 + 2 * rows[:, None] + columns  # (H, W)
    return partition_shifted_windows(parts[None, None], window_size, shift)[0, :, :, 0]


def cross_region_pairs(regions: Tensor) -> Tensor:
    """Return which pairs of positions differ in region: ``(R, T)`` to ``(R, 1, T, T)``."""
    return regions[:, None, :, None] != regions[:, None, None, :]


@cached_by_size
def cross_region_masks(
    height: int, width: int, window_size: int, shift: int, *, device: torch.device
) -> Tensor | None:
    """Return which pairs of positions of a window are in different regions of the map.

    Returns:
        Boolean mask ``(R, 1, T, T)``; None if each window is one region. All padding of a window is
        one region, so no row is entirely True.
    """
    regions = window_regions((height, width), window_size, shift, device)
    return None if regions is None else cross_region_pairs(regions)

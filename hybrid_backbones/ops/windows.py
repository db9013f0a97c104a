"""Window partitioning of feature maps, its inverse, and the mask of valid positions.

Here feature maps are ``(B, H, W, C)``, zero-padded at the right and the bottom to whole windows. A
map has R windows of T tokens each, both ordered row by row from the upper left; the size of windows
and maps is given as (rows, columns).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import are_known, ceil_div
from .choice import is_exporting
from .size_cache import cached_by_size


def partition_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """Partition feature maps ``(B, H, W, C)`` into windows ``(B, R, T, C)``."""
    height, width = window
    rows, columns = ceil_div(x.shape[1], height), ceil_div(x.shape[2], width)
    below, right = rows * height - x.shape[1], columns * width - x.shape[2]
    if not are_known(below, right) or below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    if is_exporting():
        # in steps of four dimensions, as not all runtimes have more
        batch, channels = x.shape[0], x.shape[3]
        x = x.reshape(batch * rows, height, columns, width * channels).transpose(1, 2)
        return x.reshape(batch, rows * columns, height * width, channels)
    # (B, rows, height, columns, width, C)
    x = x.unflatten(2, (columns, width)).unflatten(1, (rows, height))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, R, T, C)


def join_windows(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Invert :func:`partition_windows` and crop the padding.

    Args:
        windows: windows ``(B, R, T, C)``.
        window: size of the windows.
        size: size ``(H, W)`` of the maps.

    Returns:
        Feature maps ``(B, H, W, C)``.
    """
    grid = ceil_div(size[0], window[0]), ceil_div(size[1], window[1])
    if is_exporting():
        (rows, columns), (height, width) = grid, window
        batch, channels = windows.shape[0], windows.shape[3]
        x = windows.reshape(batch * rows, columns, height, width * channels).transpose(1, 2)
        x = x.reshape(batch, rows * height, columns * width, channels)
        return crop(x, size)
    x = windows.unflatten(1, grid).unflatten(3, window)  # (B, rows, columns, *window, C)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # zero-padded (B, H, W, C)
    return crop(x, size)


def crop(x: Tensor, size: Sequence[int], start: Sequence[int] = (0, 0)) -> Tensor:
    """Crop feature maps ``(B, H, W, C)`` to a size, in an exported graph only where needed."""
    for dim, (length, first) in enumerate(zip(size, start, strict=True), 1):
        excess = x.shape[dim] - length
        if not are_known(excess) and not is_exporting():
            # a view would have the strides of a map without padding, or with: two graphs to compile
            x = x.index_select(dim, torch.arange(length, device=x.device) + first)
        elif not are_known(excess) or excess:
            x = x.narrow(dim, first, length)
    return x


def valid_positions(
    size: Sequence[int], window: Sequence[int], device: torch.device
) -> Tensor | None:
    """Return the mask of valid, unpadded positions in the windows of an H×W map.

    Returns:
        Boolean mask ``(R, T)``, False for padding and shared between calls of equal sizes; None
        if there is no padding.
    """
    if are_known(*size, *window) and size[0] % window[0] == size[1] % window[1] == 0:
        return None
    return _find_valid(*size, *window, device=device)


@cached_by_size
def _find_valid(
    map_height: int, map_width: int, height: int, width: int, *, device: torch.device
) -> Tensor:
    valid_mask = torch.ones(1, map_height, map_width, 1, device=device)
    return partition_windows(valid_mask, (height, width))[0, :, :, 0] > 0

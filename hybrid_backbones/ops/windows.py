"""Windows: cut maps into them, put them together again, tell real positions from padding.

Maps are channels-last here, ``(B, H, W, C)``; windows have h rows and w columns. A map whose sides
are no multiples of these is extended by zeros at the right and the bottom. ``n`` is the number of
windows of one map, in rows from the upper left.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .size_cache import cached_by_size


def partition_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut maps ``(B, H, W, C)`` into windows ``(B, n, h·w, C)``."""
    height, width = window
    below, right = -x.shape[1] % height, -x.shape[2] % width
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    x = x.unflatten(2, (-1, width)).unflatten(1, (-1, height))  # (B, rows, h, columns, w, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, n, h·w, C)


def join_windows(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Put windows ``(B, n, h·w, C)`` together to maps ``(B, H, W, C)``, without the padding.

    Args:
        windows: as :func:`partition_windows` returns them.
        window: h and w.
        size: H and W of the maps.
    """
    columns = -(-size[1] // window[1])
    x = windows.unflatten(1, (-1, columns)).unflatten(3, window)  # (B, rows, columns, h, w, C)
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, rows·h, columns·w, C)
    return x[:, : size[0], : size[1]]


def valid_positions(
    size: tuple[int, int], window: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Tell which positions of the windows of an H×W map are no padding.

    Returns:
        ``(n, h·w)``, boolean, the same tensor for the same sizes; None where nothing is padded.
    """
    if size[0] % window[0] == 0 and size[1] % window[1] == 0:
        return None
    return _find_valid(*size, *window, device=device)


@cached_by_size
def _find_valid(
    map_height: int, map_width: int, height: int, width: int, *, device: torch.device
) -> Tensor:
    valid_mask = torch.ones(1, map_height, map_width, 1, device=device)
    return partition_windows(valid_mask, (height, width))[0, :, :, 0] > 0

"""Reflected borders, the one rule that all implementations of local attention share."""

import torch
from torch import Tensor


def reflect(positions: Tensor, length: int) -> Tensor:
    """Fold integer positions into ``[0, length)`` by reflection at the first and last pixel.

    The map is repeated as ``... 2 1 0 1 2 ... n-2 n-1 n-2 ...`` however far a position lies
    outside; a map of one pixel repeats that pixel.

    Args:
        positions: any integers, any shape.
        length: number of pixels of the axis, at least 1.
    """
    if length == 1:
        return torch.zeros_like(positions)
    period = 2 * (length - 1)
    positions = positions.remainder(period)
    return torch.minimum(positions, period - positions)

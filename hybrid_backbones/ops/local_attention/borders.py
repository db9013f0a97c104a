"""Reflection at the borders, the rule of all implementations of local attention."""

import torch
from torch import Tensor

from ...layers import at_least


def reflect(positions: Tensor, length: int) -> Tensor:
    """Fold integer positions into ``[0, length)`` by reflection at the first and last pixel.

    An axis of length L continues without limit as ``... 2 1 0 1 2 ... L-2 L-1 L-2 ...``; an axis of
    length one repeats its pixel.

    Args:
        positions: integer positions along the axis, any shape.
        length: number of pixels along the axis, at least 1.
    """
    # with one pixel, a period of one gives zeros; a tensor, as ONNX takes no other divisor
    period = torch.full_like(positions, at_least(2 * (length - 1), 1))
    positions = positions.remainder(period)
    return torch.minimum(positions, period - positions)

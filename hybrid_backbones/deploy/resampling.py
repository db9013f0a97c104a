"""Pooling and enlarging of the hosts' heads, in forms that a graph for any size can record."""

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.utils.wrappers import Upsample
from torch import Tensor, nn

from ..ops.choice import is_exporting


class AdaptivePool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling, in exported graphs by products with two averaging matrices."""

    output_size: Any

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, h, w)``."""
        if not is_exporting():
            return super().forward(x)
        number = self.output_size
        numbers = (number, number) if isinstance(number, int) else number
        rows, columns = map(averaging_matrix, x.shape[2:], numbers)
        return rows @ x @ columns.T


def averaging_matrix(length: int, number: int) -> Tensor:
    """Return the weights ``(number, length)`` of an axis pooled from `length` to `number` values.

    Value i averages the positions from ``⌊i · length / number⌋`` up to, but not including,
    ``⌈(i + 1) · length / number⌉``.
    """
    first = torch.arange(number)[:, None] * length
    start, end = first // number, (first + length + number - 1) // number
    position = torch.arange(length)
    inside = ((position >= start) & (position < end)).float()
    return inside / (end - start)


class Enlarge(nn.Module):
    """mmseg's enlarging by a whole factor, whose own form rounds the size outside the graph."""

    def __init__(self, upsample: Upsample):
        super().__init__()
        self.factor = int(upsample.scale_factor)
        self.settings = dict(mode=upsample.mode, align_corners=upsample.align_corners)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, factor · H, factor · W)``."""
        size = [self.factor * side for side in x.shape[2:]]
        return F.interpolate(x, size, **self.settings)


def follow_sizes(model: nn.Module) -> None:
    """Replace what would fix the size of a graph inside a model, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.AdaptiveAvgPool2d:
                setattr(module, name, AdaptivePool(child.output_size))
            elif isinstance(child, Upsample) and not child.size:
                setattr(module, name, Enlarge(child))

"""Layouts of maps in memory: those that there are, and those that PyTorch takes for one thing."""

import torch
from torch._prims_common import suggest_memory_format

CHANNELS_LAST = torch.channels_last
FORMATS = (torch.contiguous_format, CHANNELS_LAST)


def fill(shape, memory_format, **kwargs):
    """Make random values in a memory format, also where a side of one leaves it open."""
    return torch.empty(shape, memory_format=memory_format, **kwargs).normal_()


def make_picture(*shape, **kwargs):
    """Make ``(B, C, H, W)`` as one reads pictures: single ones are views of ``(H, W, C)``."""
    batch, channels, height, width = shape
    if batch > 1:
        return torch.randn(batch, height, width, channels, **kwargs).permute(0, 3, 1, 2)
    return torch.randn(height, width, channels, **kwargs).permute(2, 0, 1)[None]


LAYOUTS = {
    "contiguous": lambda *shape, **kwargs: fill(shape, torch.contiguous_format, **kwargs),
    "channels last": lambda *shape, **kwargs: fill(shape, CHANNELS_LAST, **kwargs),
    "picture": make_picture,
}


def has_a_format(x):
    """Tell whether a map has the strides of contiguous memory or of channels-last memory.

    Of contiguous memory sides of one do not count, as in all of PyTorch.
    """
    expected = torch.empty(x.shape, device="meta", memory_format=CHANNELS_LAST).stride()
    return x.is_contiguous() or x.stride() == expected


def is_ambiguous(x):
    """Tell whether PyTorch says channels-last where it asks, and allocates contiguous results.

    On a CPU, its batch normalisation computes wrong gradients where the input or the gradient is
    such a map and the other is contiguous.
    """
    asked = x.is_contiguous(memory_format=CHANNELS_LAST) and not x.is_contiguous()
    return asked and suggest_memory_format(x) != CHANNELS_LAST

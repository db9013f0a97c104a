"""Pixel-shift attention: attention over shifted copies of a map, without a softmax."""

from .api import pixel_shift_attention, validate_settings

__all__ = ["pixel_shift_attention", "validate_settings"]

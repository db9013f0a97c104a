"""Attention of each pixel over the shifted copies of its map, without normalisation."""

from .api import pixel_shift_attention, validate_settings

__all__ = ["pixel_shift_attention", "validate_settings"]

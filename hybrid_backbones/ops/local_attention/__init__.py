"""Attention of each pixel over the K×K pixels around it."""

from .api import local_attention, validate_settings

__all__ = ["local_attention", "validate_settings"]

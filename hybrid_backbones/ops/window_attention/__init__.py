"""Attention within the windows of a map, which may be shifted."""

from .api import shifted_window_attention
from .shifted_windows import roll

__all__ = ["roll", "shifted_window_attention"]

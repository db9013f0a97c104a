"""Window attention: self-attention within windows of a map, optionally shifted."""

from .api import shifted_window_attention
from .shifted_windows import roll, shift_within

__all__ = ["roll", "shift_within", "shifted_window_attention"]

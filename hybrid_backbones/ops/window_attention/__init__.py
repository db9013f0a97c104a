"""Window attention: self-attention within windows of a map, optionally shifted."""

from .api import shifted_window_attention
from .shifted_windows import roll

__all__ = ["roll", "shifted_window_attention"]

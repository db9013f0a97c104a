"""Local attention: each pixel attends to its K×K neighbourhood."""

from .api import local_attention, validate_settings
from .fixed_tiles import local_attention_fixed_tiles

__all__ = ["local_attention", "local_attention_fixed_tiles", "validate_settings"]

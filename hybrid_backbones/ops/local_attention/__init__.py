"""Local attention: each pixel attends to its K×K neighbourhood."""

from .api import local_attention, validate_settings

__all__ = ["local_attention", "validate_settings"]

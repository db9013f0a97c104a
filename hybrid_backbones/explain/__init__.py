"""What a network looks at: attention, routes, rates, gates, kept tokens, kernels."""

from .look import attending_modules, attention
from .records import record

__all__ = ["attending_modules", "attention", "record"]

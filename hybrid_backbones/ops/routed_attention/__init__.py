"""Attention of the tokens of each region over the tokens of the regions it is routed to."""

from .api import routed_attention, validate_backend

__all__ = ["routed_attention", "validate_backend"]

"""Routed attention: each region's tokens attend to those of the regions it is routed to."""

from .api import routed_attention, validate_backend

__all__ = ["routed_attention", "validate_backend"]

"""Deployment: trained models as files for other runtimes, or with fewer operations."""

from .export import export_onnx

__all__ = ["export_onnx"]

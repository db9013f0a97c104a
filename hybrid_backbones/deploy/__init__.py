"""Deployment: trained models as files for other runtimes, or with fewer operations.

`run` works without PyTorch, which `export_onnx` needs.
"""

from typing import TYPE_CHECKING, Any

from .runtime import ExportedModel, run

if TYPE_CHECKING:
    from .export import export_onnx

__all__ = ["ExportedModel", "export_onnx", "run"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch on first use."""
    if name == "export_onnx":
        from .export import export_onnx

        return export_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

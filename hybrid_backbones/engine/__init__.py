"""Training: hooks, samplers and presets, registered with mmengine; logic behind the tools."""

from ..datasets import loading
from . import amp, curves, progress, reproducible, whole_checkpoints

__all__ = ["amp", "curves", "loading", "progress", "reproducible", "whole_checkpoints"]

"""Detectors that find what a sketch shows, registered with mmdet, which they need."""

from . import guidance, locformer, sketch_encoder, sketch_head, swin_ram
from .guidance import SketchGuided
from .locformer import LocFormer
from .sketch_encoder import SketchDetDataPreprocessor, SketchEncoder
from .sketch_head import SketchDETRHead
from .swin_ram import SwinRAM

__all__ = [
    "LocFormer",
    "SketchDETRHead",
    "SketchDetDataPreprocessor",
    "SketchEncoder",
    "SketchGuided",
    "SwinRAM",
    "guidance",
    "locformer",
    "sketch_encoder",
    "sketch_head",
    "swin_ram",
]

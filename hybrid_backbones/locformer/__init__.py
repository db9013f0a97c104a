"""LocFormer: object detection by sketch, registered with mmdet, which it requires."""

from .backbone import SwinRAM
from .detector import LocFormer
from .encoder import SketchDetDataPreprocessor, SketchEncoder
from .guidance import SketchGuided
from .head import SketchDETRHead

__all__ = [
    "LocFormer",
    "SketchDETRHead",
    "SketchDetDataPreprocessor",
    "SketchEncoder",
    "SketchGuided",
    "SwinRAM",
]

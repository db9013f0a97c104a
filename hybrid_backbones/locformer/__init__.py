"""LocFormer: object detection by sketch, registered with mmdet, which it requires."""

from . import backbone as swin_ram
from . import detector as locformer
from . import encoder as sketch_encoder
from . import guidance
from . import head as sketch_head
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
    "guidance",
    "locformer",
    "sketch_encoder",
    "sketch_head",
    "swin_ram",
]

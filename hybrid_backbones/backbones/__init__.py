"""Backbones, registered in mmengine's root `MODELS`, which all OpenMMLab libraries share."""

from .acmix_resnet import ACmixResNet
from .acmix_swin import ACmixSwin
from .base import HierarchicalBackbone
from .biformer import BiFormer
from .mixformer import MixFormer
from .swiftformer import SwiftFormer
from .uniformer import UniFormer
from .uniformer_light import UniFormerLight
from .xvolution_resnet import XVolutionResNet

__all__ = [
    "ACmixResNet",
    "ACmixSwin",
    "BiFormer",
    "HierarchicalBackbone",
    "MixFormer",
    "SwiftFormer",
    "UniFormer",
    "UniFormerLight",
    "XVolutionResNet",
]

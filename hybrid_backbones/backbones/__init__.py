"""Backbones, registered in mmengine's root `MODELS`, which every OpenMMLab library consults."""

from .acmix_resnet import ACmixResNet
from .base import HierarchicalBackbone

__all__ = ["ACmixResNet", "HierarchicalBackbone"]

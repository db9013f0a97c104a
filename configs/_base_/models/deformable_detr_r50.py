"""Deformable DETR's model with ResNet-50, of mmdet's config without data and schedule."""

_base_ = []

# after `_base_`, which tells mmengine that this is no file of its newer kind
from mmengine.hub import get_config  # noqa: E402

model = get_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py").model

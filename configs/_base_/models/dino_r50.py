"""DINO's model with ResNet-50, as in mmdet's config, without its data and schedule."""

_base_ = []

# after `_base_`, which tells mmengine that this is no file of its newer kind
from mmengine.hub import get_config  # noqa: E402

model = get_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py").model

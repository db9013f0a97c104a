"""Mask2Former's model with ResNet-50 for instances, of mmdet's config, for images of any size."""

_base_ = []

# after `_base_`, which tells mmengine that this is no file of its newer kind
from mmengine.hub import get_config  # noqa: E402

model = get_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py").model
# its training pads all images to 1024×1024
model["data_preprocessor"]["batch_augments"] = None

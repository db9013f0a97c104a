"""Mask2Former's model with ResNet-50 for ADE20K, of mmseg's config without its schedule."""

_base_ = []

# after `_base_`, which tells mmengine that this is no file of its newer kind
from mmengine.hub import get_config  # noqa: E402

model = get_config("mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py").model

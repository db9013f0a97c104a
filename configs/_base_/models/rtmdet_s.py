"""RTMDet-s, of mmdet's config, for images in RGB and of any size, as our backbones take them."""

_base_ = []

# after `_base_`, which tells mmengine that this is no file of its newer kind
from mmengine.hub import get_config  # noqa: E402

model = get_config("mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py").model
# the published weights of its own backbone are for BGR
model["data_preprocessor"] = dict(
    type="DetDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)

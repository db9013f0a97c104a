"""Mask R-CNN with UniFormer-XXS on COCO, 1x; see `maskrcnn_uniformer_xs.py`.

Command:   python tools/train.py configs/maskrcnn_uniformer_xxs.py
Weights:   python tools/reproduce.py maskrcnn_uniformer_xxs
Published: box AP 42.8, mask AP 39.2 with 29.4M parameters
"""

_base_ = "maskrcnn_uniformer_xs.py"

model = dict(
    backbone=dict(
        arch="xxs", drop_path_rate=0.0, init_cfg=dict(checkpoint="uniformer_xxs_224_in1k")
    ),
    neck=dict(in_channels=[56, 112, 224, 448]),
)

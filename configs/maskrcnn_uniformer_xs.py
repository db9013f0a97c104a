"""Mask R-CNN with UniFormer-XS on COCO, 1x.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/maskrcnn_uniformer_xs.py
           from ImageNet weights, as published: --pretrained
Weights:   python tools/reproduce.py maskrcnn_uniformer_xs
Published: box AP 44.6, mask AP 40.9 with 35.6M parameters
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_instance.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="UniFormerLight",
        arch="xs",
        drop_path_rate=0.15,
        init_cfg=dict(type="Published", checkpoint="uniformer_xs_224_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

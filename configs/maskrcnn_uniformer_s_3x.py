"""Mask R-CNN with UniFormer-S (hybrid, windows of 14) on COCO, 3x, many scales.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/maskrcnn_uniformer_s_3x.py
           in mixed precision and from ImageNet weights, as published: --amp --pretrained
Weights:   python tools/reproduce.py maskrcnn_uniformer_s_3x
Published: box AP 48.2, mask AP 43.4 with 41M parameters and 269G FLOPs at 800×1280
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "_base_/schedules/coco_adamw_3x.py",
    "_base_/datasets/coco_instance_ms.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="UniFormer",
        arch="small",
        attention="hybrid",
        drop_path_rate=0.1,
        with_cp=(0, 0, 8, 0),
        init_cfg=dict(type="Published", checkpoint="uniformer_small_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

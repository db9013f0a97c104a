"""Mask R-CNN with MixFormer-B4 on COCO, 3x, many scales.

Paper:     Chen et al., MixFormer: Mixing Features across Windows and Dimensions,
           CVPR 2022, https://arxiv.org/abs/2204.02557
Command:   python tools/train.py configs/maskrcnn_mixformer_b4_3x.py
           from ImageNet weights, as published: --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pdparams
Published: box AP 47.6, mask AP 43.0 with 53M parameters and 243G FLOPs at 800×1280
Note:      the schedule was not published; it is Swin's. Statistics are learnt over all GPUs
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "_base_/schedules/coco_adamw_3x.py",
    "_base_/datasets/coco_instance_ms.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b4"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

sync_bn = "torch"

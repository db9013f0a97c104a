"""Mask R-CNN with MixFormer-B4 on COCO, 1x.

Paper:     Chen et al., MixFormer: Mixing Features across Windows and Dimensions,
           CVPR 2022, https://arxiv.org/abs/2204.02557
Command:   python tools/train.py configs/maskrcnn_mixformer_b4.py
           from ImageNet weights, as published: --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pdparams
Published: box AP 45.1, mask AP 41.2 with 53M parameters and 243G FLOPs at 800×1280
Note:      the schedule was not published; it is Swin's. Statistics are learnt over all GPUs
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_instance.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b4"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

sync_bn = "torch"

"""RetinaNet with MixFormer-B4 on COCO, 1x.

Paper:     Chen et al., MixFormer: Mixing Features across Windows and Dimensions,
           CVPR 2022, https://arxiv.org/abs/2204.02557
Command:   python tools/train.py configs/retinanet_mixformer_b4.py
           from ImageNet weights, as published: --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pdparams
Published: no RetinaNet result of MixFormer
Note:      the schedule is Swin's
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b4", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)

sync_bn = "torch"

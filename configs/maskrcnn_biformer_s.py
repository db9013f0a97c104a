"""Mask R-CNN with BiFormer-S on COCO, 1x.

Paper:     Zhu et al., BiFormer: Vision Transformer with Bi-Level Routing Attention,
           CVPR 2023, https://arxiv.org/abs/2303.08810
Command:   python tools/train.py configs/maskrcnn_biformer_s.py
           in mixed precision and from ImageNet weights, as published: --amp --pretrained
Published: box AP 47.8, mask AP 43.2 (48.1, 43.6 with the released code)
Departs:   loss scale: dynamic, published 512
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
        type="BiFormer",
        arch="small",
        num_windows=16,
        norm_eval=True,
        drop_path_rate=0.2,
        init_cfg=dict(type="Published", checkpoint="biformer_small_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

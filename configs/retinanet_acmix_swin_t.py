"""RetinaNet with ACmix-Swin-T on COCO, 1x.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/retinanet_acmix_swin_t.py
           from ImageNet weights, as published: --pretrained
Published: no code, configuration or weights of the detector; ImageNet weights only
Note:      the schedule is Swin's
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="ACmixSwin",
        arch="tiny",
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Published", checkpoint="acmix_swin_tiny_in1k"),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)

"""Mask R-CNN with ResNet-50 FPN on COCO, 1x: the baseline of the `maskrcnn_*` configs.

Paper:     He et al., Mask R-CNN, ICCV 2017, https://arxiv.org/abs/1703.06870
Command:   python tools/train.py configs/maskrcnn_r50.py
Published: box AP 38.2, mask AP 34.7 (mmdet's model zoo, from ImageNet weights)
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/datasets/coco_instance.py",
    "_base_/runtime_detection.py",
]

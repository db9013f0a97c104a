"""Cascade Mask R-CNN with ResNet-50 FPN on COCO, 1x: the baseline of `cascade_maskrcnn_*`.

Paper:     Cai and Vasconcelos, Cascade R-CNN: High Quality Object Detection and Instance
           Segmentation, TPAMI 2019, https://arxiv.org/abs/1906.09756
Command:   python tools/train.py configs/cascade_maskrcnn_r50.py
Published: box AP 41.2, mask AP 35.9 (mmdet's model zoo, from ImageNet weights)
"""

_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/datasets/coco_instance.py",
    "_base_/runtime_detection.py",
]

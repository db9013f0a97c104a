"""Faster R-CNN with ResNet-50 FPN on COCO, 1x: the baseline of the `fasterrcnn_*` configs.

Paper:     Ren et al., Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
           Networks, NeurIPS 2015, https://arxiv.org/abs/1506.01497
Command:   python tools/train.py configs/fasterrcnn_r50.py
Published: box AP 37.4 (mmdet's model zoo, from ImageNet weights)
"""

_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

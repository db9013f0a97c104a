"""RetinaNet with ResNet-50 FPN on COCO, 1x: the baseline of the `retinanet_*` configs.

Paper:     Lin et al., Focal Loss for Dense Object Detection, ICCV 2017,
           https://arxiv.org/abs/1708.02002
Command:   python tools/train.py configs/retinanet_r50.py
Published: box AP 36.5 (mmdet's model zoo, from ImageNet weights)
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

optim_wrapper = dict(optimizer=dict(lr=0.01))

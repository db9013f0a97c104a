"""Semantic FPN with ResNet-50 on ADE20K, 160k at 512×512: the baseline of the `fpn_*` configs.

Paper:     Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019,
           https://arxiv.org/abs/1901.02446
Command:   python tools/train.py configs/fpn_r50.py
Published: mIoU 37.49 (mmseg's model zoo, from ImageNet weights)
"""

_base_ = [
    "_base_/models/fpn_r50.py",
    "_base_/schedules/ade20k_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

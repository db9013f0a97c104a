"""UperNet with ResNet-50 on ADE20K, 160k at 512×512: the baseline of the `upernet_*` configs.

Paper:     Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018,
           https://arxiv.org/abs/1807.10221
Command:   python tools/train.py configs/upernet_r50.py
Published: mIoU 42.05 (mmseg's model zoo, from ImageNet weights)
"""

_base_ = [
    "_base_/models/upernet_r50.py",
    "_base_/schedules/ade20k_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

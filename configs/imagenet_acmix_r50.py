"""ACmix-ResNet-50 on ImageNet-1k, 90 epochs.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/imagenet_acmix_r50.py
Published: top-1 77.8 with 18.6M parameters and 3.6G FLOPs
Departs:   initialisation: ACmix keeps the paper's shifts, which the script overwrites, and residual
           branches start at 0. The script's gradients start above 1000, these at 4
"""

_base_ = "imagenet_r50.py"

model = dict(
    backbone=dict(_delete_=True, type="ACmixResNet", depth=50, out_indices=(3,)),
)

"""ACmix-ResNet-50 on ImageNet-1k, 90 epochs, with the published recipe.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/imagenet_acmix_r50.py
Published: top-1 77.8 with 18.6M parameters and 3.6G FLOPs
"""

_base_ = "imagenet_r50.py"

model = dict(
    backbone=dict(_delete_=True, type="ACmixResNet", depth=50, out_indices=(3,)),
)

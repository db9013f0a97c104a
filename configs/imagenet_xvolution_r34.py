"""X-volution-ResNet-34 on ImageNet-1k, 90 epochs.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/imagenet_xvolution_r34.py
Published: 1.2 above ResNet-34 in top-1; 75.0 by our memory of the paper. The recipe is
           that of `imagenet_acmix_r50.py`, as none was published
"""

_base_ = "imagenet_xvolution_r50.py"

model = dict(backbone=dict(depth=34), head=dict(in_channels=512))

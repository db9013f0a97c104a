"""X-volution(SA)-ResNet-34 on ImageNet-1k, 90 epochs.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/imagenet_xvolution_r34_sa.py
Published: no result with global attention that we know
"""

_base_ = "imagenet_xvolution_r34.py"

model = dict(backbone=dict(attention="global"))

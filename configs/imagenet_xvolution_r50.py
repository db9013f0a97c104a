"""X-volution-ResNet-50 on ImageNet-1k, 90 epochs.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/imagenet_xvolution_r50.py
Published: 0.9 above ResNet-50 in top-1; 76.6 by our memory of the paper. The recipe is
           that of `imagenet_acmix_r50.py`, as none was published
"""

_base_ = "imagenet_r50.py"

model = dict(
    backbone=dict(_delete_=True, type="XVolutionResNet", depth=50, out_indices=(3,)),
)

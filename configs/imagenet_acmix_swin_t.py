"""Swin-T with ACmix on ImageNet-1k, 300 epochs.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/imagenet_acmix_swin_t.py
           in mixed precision, as published: --amp
Weights:   python tools/reproduce.py acmix_swin_tiny_in1k
Published: top-1 81.9 with 30M parameters and 4.6G FLOPs at 224×224
Departs:   rate decay: from the end of the warm-up, published from the start
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e_warmup20.py",
    "_base_/datasets/imagenet_strong.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(type="ACmixSwin", arch="tiny", out_norm="final", out_indices=(3,)),
    head=dict(in_channels=768),
)

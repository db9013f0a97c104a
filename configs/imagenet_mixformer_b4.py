"""MixFormer-B4 on ImageNet-1k, 300 epochs, with the published recipe.

Paper:     Chen et al., MixFormer: Mixing Features across Windows and Dimensions,
           CVPR 2022, https://arxiv.org/abs/2204.02557
Command:   python tools/train.py configs/imagenet_mixformer_b4.py
Published: top-1 83.0 with 34.8M parameters and 3.6G FLOPs at 224×224
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e_mixformer.py",
    "_base_/datasets/imagenet_strong.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(type="MixFormer", arch="b4", out_norm="final", out_indices=(3,)),
    neck=dict(_delete_=True, type="ProjectedPooling", in_channels=512, out_channels=1280),
    head=dict(in_channels=1280),
    # one of the two for each batch
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)]),
)

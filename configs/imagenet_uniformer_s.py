"""UniFormer-S on ImageNet-1k, 300 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_s.py
           in mixed precision, as published: --amp
Weights:   python tools/reproduce.py uniformer_small_in1k uniformer_small_paddle
Published: top-1 82.9 with 22M parameters and 3.6G FLOPs at 224×224
Departs:   rate decay: by iteration from the end of the warm-up, published by epoch from the start
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e.py",
    "_base_/datasets/imagenet_strong.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(
        type="UniFormer", arch="small", drop_path_rate=0.1, out_norm="final", out_indices=(3,)
    ),
    head=dict(in_channels=512),
)

train_dataloader = dict(sampler=dict(type="SeededRepeatAugSampler"))

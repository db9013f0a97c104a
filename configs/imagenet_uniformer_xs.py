"""UniFormer-XS on ImageNet-1k, 600 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_xs.py
Weights:   python tools/reproduce.py uniformer_xs_192_in1k uniformer_xs_224_in1k
Published: top-1 81.5 with 16.5M parameters and 1.4G FLOPs at 192×192;
           82.0 with 2.0G FLOPs at 224×224
Departs:   rate decay: by iteration from the end of the warm-up, published by epoch from the start
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_600e.py",
    "_base_/datasets/imagenet_strong.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(
        type="UniFormerLight", arch="xs", drop_path_rate=0.1, out_norm="final", out_indices=(3,)
    ),
    head=dict(type="PairedLinearHead", average=False, in_channels=512),
)

# a validation measures the average as accuracy/top1, the weights themselves as
# accuracy/top1_origin; the better one was published
default_hooks = dict(ema=dict(type="EMAHook", momentum=1e-4, evaluate_on_origin=True))

"""UniFormer-XXS on ImageNet-1k, 600 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_xxs.py
Weights:   python tools/reproduce.py uniformer_xxs_128_in1k uniformer_xxs_160_in1k
           uniformer_xxs_192_in1k uniformer_xxs_224_in1k
Published: top-1 76.8 with 10.2M parameters and 0.43G FLOPs at 128×128;
           79.1 with 0.67G at 160×160, 79.9 with 0.96G at 192×192, 80.6 with 1.3G at 224×224
Departs:   rate decay: by iteration from the end of the warm-up, published by epoch from the start;
           augmentation: the policies of AutoAugment's paper, published timm's v0
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_600e_xxs.py",
    "_base_/datasets/imagenet_autoaugment.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(
        type="UniFormerLight", arch="xxs", drop_path_rate=0.0, out_norm="final", out_indices=(3,)
    ),
    head=dict(type="PairedLinearHead", average=False, in_channels=448),
)

# a validation measures the average as accuracy/top1, the weights themselves as
# accuracy/top1_origin; the better one was published
default_hooks = dict(ema=dict(type="EMAHook", momentum=1e-4, evaluate_on_origin=True))

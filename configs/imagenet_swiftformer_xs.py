"""SwiftFormer-XS on ImageNet-1k, 300 epochs; see `imagenet_swiftformer_l1.py`.

Command:   python tools/train.py configs/imagenet_swiftformer_xs.py
Weights:   python tools/reproduce.py swiftformer_xs_in1k swiftformer_xs_first_release
Published: top-1 75.7 with 3.5M parameters and 0.6G FLOPs at 224×224
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e_swiftformer.py",
    "_base_/datasets/imagenet_jitter.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(type="SwiftFormer", arch="xs", out_norm="final", out_indices=(3,)),
    head=dict(type="PairedLinearHead", average=True, in_channels=220),
    # no mixup, no cutmix
    train_cfg=None,
)

train_dataloader = dict(sampler=dict(type="SeededRepeatAugSampler"))

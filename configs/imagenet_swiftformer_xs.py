"""SwiftFormer-XS on ImageNet-1k, 300 epochs.

Paper:     Shaker et al., SwiftFormer: Efficient Additive Attention for Transformer-based
           Real-time Mobile Vision Applications, ICCV 2023, https://arxiv.org/abs/2303.15446
Command:   python tools/train.py configs/imagenet_swiftformer_xs.py
Published: top-1 75.7 with 3.5M parameters and 0.6G FLOPs at 224×224
Note:      as `imagenet_swiftformer_l1.py`, without RandAugment, mixup and cutmix
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e.py",
    "_base_/datasets/imagenet_jitter.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(type="SwiftFormer", arch="xs", out_norm="final", out_indices=(3,)),
    head=dict(type="PairedLinearHead", average=True, in_channels=220),
    train_cfg=None,
)

optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.025))
train_dataloader = dict(sampler=dict(type="SeededRepeatAugSampler"))
# 16 GPUs of 128 images
auto_scale_lr = dict(base_batch_size=2048)

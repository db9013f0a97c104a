"""SwiftFormer-S on ImageNet-1k, 300 epochs; see `imagenet_swiftformer_l1.py`.

Command:   python tools/train.py configs/imagenet_swiftformer_s.py
Weights:   python tools/reproduce.py swiftformer_s_in1k swiftformer_s_first_release
Published: top-1 78.5 with 6.1M parameters and 1.0G FLOPs at 224×224
"""

_base_ = "imagenet_swiftformer_l1.py"

model = dict(
    backbone=dict(arch="s"),
    head=dict(in_channels=224),
    # no mixup, no cutmix
    train_cfg=None,
)

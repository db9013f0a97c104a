"""SwiftFormer-L3 on ImageNet-1k, 300 epochs; see `imagenet_swiftformer_l1.py`.

Command:   python tools/train.py configs/imagenet_swiftformer_l3.py
Weights:   python tools/reproduce.py swiftformer_l3_in1k swiftformer_l3_first_release
Published: top-1 83.0 with 28.5M parameters and 4.0G FLOPs at 224×224
"""

_base_ = "imagenet_swiftformer_l1.py"

model = dict(
    backbone=dict(arch="l3"),
    head=dict(in_channels=512),
)

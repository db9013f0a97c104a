"""SwiftFormer-L1 on ImageNet-1k, 300 epochs.

Paper:     Shaker et al., SwiftFormer: Efficient Additive Attention for Transformer-based
           Real-time Mobile Vision Applications, ICCV 2023, https://arxiv.org/abs/2303.15446
Command:   python tools/train.py configs/imagenet_swiftformer_l1.py
Weights:   python tools/reproduce.py swiftformer_l1_in1k
Published: top-1 80.9 with 12.1M parameters and 1.6G FLOPs at 224×224
Departs:   distillation: none, published from RegNetY-160 (here both heads learn from the labels);
           clipping: none, published adaptive;
           rate decay: by iteration from the end of the warm-up, published by epoch from the start
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e_swiftformer.py",
    "_base_/datasets/imagenet_strong.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(type="SwiftFormer", arch="l1", out_norm="final", out_indices=(3,)),
    head=dict(type="PairedLinearHead", average=True, in_channels=384),
)

train_dataloader = dict(sampler=dict(type="SeededRepeatAugSampler"))

"""SegFormer's head with SwiftFormer-XS on ADE20K, 160k at 512×512.

Paper:     Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with
           Transformers, NeurIPS 2021, https://arxiv.org/abs/2105.15203
Command:   python tools/train.py configs/segformer_swiftformer_xs.py
           from ImageNet weights, as SegFormer was: --pretrained
Published: no published result: the combination is ours
"""

_base_ = [
    "mmseg::_base_/models/segformer_mit-b0.py",
    "_base_/schedules/ade20k_adamw_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="xs"),
        init_cfg=dict(type="Published", checkpoint="swiftformer_xs_in1k"),
    ),
    decode_head=dict(in_channels=[48, 56, 112, 220], num_classes=150),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))
sync_bn = "torch"

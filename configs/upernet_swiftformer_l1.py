"""UperNet with SwiftFormer-L1 on ADE20K, 160k at 512×512.

Paper:     Shaker et al., SwiftFormer: Efficient Additive Attention for Transformer-based
           Real-time Mobile Vision Applications, ICCV 2023, https://arxiv.org/abs/2303.15446
Command:   python tools/train.py configs/upernet_swiftformer_l1.py
           from ImageNet weights, as published: --pretrained
Published: no UperNet result of SwiftFormer
Note:      the schedule is Swin's
"""

_base_ = [
    "_base_/models/upernet_r50.py",
    "_base_/schedules/ade20k_adamw_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="SwiftFormer",
        arch="l1",
        init_cfg=dict(type="Published", checkpoint="swiftformer_l1_in1k"),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)

sync_bn = "torch"

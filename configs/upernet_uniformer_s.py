"""UperNet with UniFormer-S (global attention) on ADE20K, 160k at 512×512.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/upernet_uniformer_s.py
           from ImageNet weights, as published: --pretrained
Weights:   python tools/reproduce.py upernet_uniformer_s
Published: mIoU 47.6, 48.5 at many scales, with 52M parameters and 1004G FLOPs at 512×2048
Departs:   rate decay: from the end of the warm-up, published from the start
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
        type="UniFormer",
        arch="small",
        drop_path_rate=0.25,
        init_cfg=dict(type="Published", checkpoint="uniformer_small_in1k"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)

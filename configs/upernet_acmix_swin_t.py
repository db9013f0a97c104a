"""UperNet with ACmix-Swin-T on ADE20K, 160k at 512×512.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/upernet_acmix_swin_t.py
           from ImageNet weights, as published: --pretrained
Published: no code, configuration or weights of the segmentor; ImageNet weights only
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
        type="ACmixSwin",
        arch="tiny",
        init_cfg=dict(type="Published", checkpoint="acmix_swin_tiny_in1k"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

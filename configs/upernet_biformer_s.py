"""UperNet with BiFormer-S on ADE20K, 160k at 512×512.

Paper:     Zhu et al., BiFormer: Vision Transformer with Bi-Level Routing Attention,
           CVPR 2023, https://arxiv.org/abs/2303.08810
Command:   python tools/train.py configs/upernet_biformer_s.py
           in mixed precision and from ImageNet weights, as published: --amp --pretrained
Published: mIoU 49.8, 50.8 at many scales
Departs:   loss scale: dynamic, published 512; head initialisation: mmseg's, published PyTorch's;
           rate decay: from the end of the warm-up, published from the start
"""

_base_ = [
    "_base_/models/upernet_r50.py",
    "_base_/schedules/ade20k_adamw_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="BiFormer", arch="small", num_windows=8, drop_path_rate=0.3),
        init_cfg=dict(type="Published", checkpoint="biformer_small_in1k"),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

sync_bn = "torch"

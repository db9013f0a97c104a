"""UperNet with MixFormer-B4 on ADE20K, 160k at 512×512.

Paper:     Chen et al., MixFormer: Mixing Features across Windows and Dimensions,
           CVPR 2022, https://arxiv.org/abs/2204.02557
Command:   python tools/train.py configs/upernet_mixformer_b4.py
           from ImageNet weights, as published: --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pdparams
Published: mIoU 46.8, 48.0 at many scales, with 63M parameters and 918G FLOPs at 512×2048
Note:      the schedule was not published; it is Swin's. Statistics are learnt over all GPUs
"""

_base_ = [
    "_base_/models/upernet_r50.py",
    "_base_/schedules/ade20k_adamw_160k.py",
    "_base_/datasets/ade20k.py",
    "_base_/runtime_segmentation.py",
]

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b4"),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

sync_bn = "torch"

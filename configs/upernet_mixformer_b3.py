"""UperNet with MixFormer-B3 on ADE20K, 160k; see `upernet_mixformer_b4.py`.

Command:   python tools/train.py configs/upernet_mixformer_b3.py
Published: mIoU 44.5, 45.5 at many scales, with 44M parameters and 880G FLOPs at 512×2048
"""

_base_ = "upernet_mixformer_b4.py"

model = dict(
    backbone=dict(arch="b3"),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)

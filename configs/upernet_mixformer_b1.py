"""UperNet with MixFormer-B1 on ADE20K, 160k; see `upernet_mixformer_b4.py`.

Command:   python tools/train.py configs/upernet_mixformer_b1.py
Published: mIoU 42.0, 43.5 at many scales, with 35M parameters and 854G FLOPs at 512×2048
"""

_base_ = "upernet_mixformer_b4.py"

model = dict(
    backbone=dict(arch="b1"),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
    auxiliary_head=dict(in_channels=128),
)

"""UperNet with MixFormer-B2 on ADE20K, 160k; see `upernet_mixformer_b4.py`.

Command:   python tools/train.py configs/upernet_mixformer_b2.py
Published: mIoU 43.1, 43.9 at many scales, with 37M parameters and 859G FLOPs at 512×2048
"""

_base_ = "upernet_mixformer_b4.py"

model = dict(
    backbone=dict(arch="b2"),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
    auxiliary_head=dict(in_channels=128),
)

"""Mask2Former on ADE20K with MixFormer-B1; see `mask2former_ade_swiftformer_xs.py`.

Command:   python tools/train.py configs/mask2former_ade_mixformer_b1.py
Published: no published result: the combination is ours
"""

_base_ = "mask2former_ade_swiftformer_xs.py"

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b1"),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
)

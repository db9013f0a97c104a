"""RTMDet-Ins-s with MixFormer-B1; see `rtmdetins_swiftformer_xs.py`.

Command:   python tools/train.py configs/rtmdetins_mixformer_b1.py
Published: no published result: the combination is ours
"""

_base_ = "rtmdetins_swiftformer_xs.py"

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b1", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[64, 128, 256]),
)

"""Cascade R-CNN with MixFormer-B1; see `cascade_rcnn_swiftformer_xs.py`.

Command:   python tools/train.py configs/cascade_rcnn_mixformer_b1.py
Published: no published result: the combination is ours
"""

_base_ = "cascade_rcnn_swiftformer_xs.py"

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b1"),
    neck=dict(in_channels=[32, 64, 128, 256]),
)

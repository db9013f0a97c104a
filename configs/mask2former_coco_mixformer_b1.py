"""Mask2Former on COCO with MixFormer-B1; see `mask2former_coco_swiftformer_xs.py`.

Command:   python tools/train.py configs/mask2former_coco_mixformer_b1.py
Published: no published result: the combination is ours
"""

_base_ = "mask2former_coco_swiftformer_xs.py"

model = dict(
    backbone=dict(_delete_=True, type="MixFormer", arch="b1"),
    panoptic_head=dict(in_channels=[32, 64, 128, 256]),
)

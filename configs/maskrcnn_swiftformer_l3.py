"""Mask R-CNN with SwiftFormer-L3 on COCO, 1x; see `maskrcnn_swiftformer_l1.py`.

Command:   python tools/train.py configs/maskrcnn_swiftformer_l3.py
Published: box AP 42.7, mask AP 39.1
"""

_base_ = "maskrcnn_swiftformer_l1.py"

model = dict(
    backbone=dict(arch="l3", init_cfg=dict(checkpoint="swiftformer_l3_in1k")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

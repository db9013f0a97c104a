"""Mask R-CNN with BiFormer-B on COCO, 1x; see `maskrcnn_biformer_s.py`.

Command:   python tools/train.py configs/maskrcnn_biformer_b.py
Published: box AP 48.6, mask AP 43.7
"""

_base_ = "maskrcnn_biformer_s.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint="biformer_base_in1k")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

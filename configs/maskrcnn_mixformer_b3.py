"""Mask R-CNN with MixFormer-B3 on COCO, 1x; see `maskrcnn_mixformer_b4.py`.

Command:   python tools/train.py configs/maskrcnn_mixformer_b3.py
Published: box AP 42.8, mask AP 39.3 with 35M parameters and 207G FLOPs at 800×1280
"""

_base_ = "maskrcnn_mixformer_b4.py"

model = dict(backbone=dict(arch="b3"), neck=dict(in_channels=[48, 96, 192, 384]))

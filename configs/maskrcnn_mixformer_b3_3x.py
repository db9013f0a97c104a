"""Mask R-CNN with MixFormer-B3 on COCO, 3x; see `maskrcnn_mixformer_b4_3x.py`.

Command:   python tools/train.py configs/maskrcnn_mixformer_b3_3x.py
Published: box AP 46.2, mask AP 41.9 with 35M parameters and 207G FLOPs at 800×1280
"""

_base_ = "maskrcnn_mixformer_b4_3x.py"

model = dict(backbone=dict(arch="b3"), neck=dict(in_channels=[48, 96, 192, 384]))

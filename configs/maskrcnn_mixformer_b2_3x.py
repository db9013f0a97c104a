"""Mask R-CNN with MixFormer-B2 on COCO, 3x; see `maskrcnn_mixformer_b4_3x.py`.

Command:   python tools/train.py configs/maskrcnn_mixformer_b2_3x.py
Published: box AP 45.1, mask AP 40.8 with 28M parameters and 187G FLOPs at 800×1280
"""

_base_ = "maskrcnn_mixformer_b4_3x.py"

model = dict(backbone=dict(arch="b2"), neck=dict(in_channels=[32, 64, 128, 256]))

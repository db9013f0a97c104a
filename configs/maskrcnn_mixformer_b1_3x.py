"""Mask R-CNN with MixFormer-B1 on COCO, 3x; see `maskrcnn_mixformer_b4_3x.py`.

Command:   python tools/train.py configs/maskrcnn_mixformer_b1_3x.py
Published: box AP 43.9, mask AP 40.0 with 26M parameters and 183G FLOPs at 800×1280
"""

_base_ = "maskrcnn_mixformer_b4_3x.py"

model = dict(backbone=dict(arch="b1"), neck=dict(in_channels=[32, 64, 128, 256]))

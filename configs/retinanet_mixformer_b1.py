"""RetinaNet with MixFormer-B1 on COCO, 1x; see `retinanet_mixformer_b4.py`.

Command:   python tools/train.py configs/retinanet_mixformer_b1.py
Published: no RetinaNet result of MixFormer
"""

_base_ = "retinanet_mixformer_b4.py"

model = dict(backbone=dict(arch="b1"), neck=dict(in_channels=[64, 128, 256]))

"""Mask R-CNN with ACmix-ResNet-38 FPN on COCO, 1x; see `maskrcnn_acmix_r50.py`.

Command:   python tools/train.py configs/maskrcnn_acmix_r38.py
Published: no Mask R-CNN result, code or weights of ACmix-ResNet
"""

_base_ = "maskrcnn_acmix_r50.py"

model = dict(backbone=dict(depth=38))

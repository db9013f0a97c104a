"""Faster R-CNN with X-volution(SA)-ResNet-50 FPN on COCO, 1x.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/fasterrcnn_xvolution_r50_sa.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/fasterrcnn_xvolution_r50_sa.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: box AP 42.8, 1.7 above ResNet-50, with global attention; our sources have neither the
           schedule nor the stages
"""

_base_ = "fasterrcnn_xvolution_r50.py"

model = dict(backbone=dict(attention="global"))

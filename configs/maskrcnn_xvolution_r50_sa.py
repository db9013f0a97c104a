"""Mask R-CNN with X-volution(SA)-ResNet-50 FPN on COCO, 1x.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/maskrcnn_xvolution_r50_sa.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/maskrcnn_xvolution_r50_sa.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: box AP 41.1, mask AP 37.2 with global attention; our sources have neither the
           schedule nor the stages
"""

_base_ = "maskrcnn_xvolution_r50.py"

model = dict(backbone=dict(attention="global"))

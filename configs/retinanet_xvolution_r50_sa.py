"""RetinaNet with X-volution(SA)-ResNet-50 FPN on COCO, 1x.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/retinanet_xvolution_r50_sa.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/retinanet_xvolution_r50_sa.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: no RetinaNet result, code or weights
"""

_base_ = "retinanet_xvolution_r50.py"

model = dict(backbone=dict(attention="global"))

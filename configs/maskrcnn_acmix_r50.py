"""Mask R-CNN with ACmix-ResNet-50 FPN on COCO, 1x.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/maskrcnn_acmix_r50.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/maskrcnn_acmix_r50.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: no Mask R-CNN result, code or weights of ACmix-ResNet
"""

_base_ = "maskrcnn_r50.py"

model = dict(backbone=dict(_delete_=True, type="ACmixResNet", depth=50))
# no weights to freeze: statistics are learnt here, over all GPUs
sync_bn = "torch"

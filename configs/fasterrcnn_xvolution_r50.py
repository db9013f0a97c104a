"""Faster R-CNN with X-volution-ResNet-50 FPN on COCO, 1x.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/fasterrcnn_xvolution_r50.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/fasterrcnn_xvolution_r50.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: no number with pixel shifts that we know; with global attention see the `_sa` sibling
"""

_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/datasets/coco_detection.py",
    "_base_/runtime_detection.py",
]

model = dict(backbone=dict(_delete_=True, type="XVolutionResNet", depth=50))
# no weights to freeze: statistics are learnt here, over all GPUs
sync_bn = "torch"

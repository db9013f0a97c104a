"""UperNet with X-volution-ResNet-50 on ADE20K, 160k at 512×512.

Paper:     Chen et al., X-volution: On the Unification of Convolution and Self-attention, 2021,
           https://arxiv.org/abs/2106.02253
Command:   python tools/train.py configs/upernet_xvolution_r50.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/upernet_xvolution_r50.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: no UperNet result, code or weights
"""

_base_ = "upernet_r50.py"

model = dict(backbone=dict(_delete_=True, type="XVolutionResNet", depth=50))
# the backbone's normalisation over all GPUs too, as the heads'
sync_bn = "torch"

"""UperNet with ACmix-ResNet-50 on ADE20K, 160k at 512×512.

Paper:     Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
           https://arxiv.org/abs/2111.14556
Command:   python tools/train.py configs/upernet_acmix_r50.py
           from your own ImageNet weights, as no weights were published:
           python tools/train.py configs/upernet_acmix_r50.py --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: no UperNet result, code or weights of ACmix-ResNet
"""

_base_ = "upernet_r50.py"

model = dict(backbone=dict(_delete_=True, type="ACmixResNet", depth=50))
# the backbone's normalisation over all GPUs too, as the heads'
sync_bn = "torch"

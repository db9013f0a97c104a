"""Swin-S with ACmix on ImageNet-1k, 300 epochs; see `imagenet_acmix_swin_t.py`.

Command:   python tools/train.py configs/imagenet_acmix_swin_s.py
Weights:   python tools/reproduce.py acmix_swin_small_in1k
Published: top-1 83.5 with 51M parameters and 9.0G FLOPs at 224×224
"""

_base_ = "imagenet_acmix_swin_t.py"

model = dict(backbone=dict(arch="small"))

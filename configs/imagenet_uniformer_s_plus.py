"""UniFormer-S† (32 channels a head) on ImageNet-1k, 300 epochs; see `imagenet_uniformer_s.py`.

Command:   python tools/train.py configs/imagenet_uniformer_s_plus.py
Weights:   python tools/reproduce.py uniformer_small_plus_in1k uniformer_small_plus_paddle
Published: top-1 83.4 with 24M parameters and 4.2G FLOPs at 224×224
"""

_base_ = "imagenet_uniformer_s.py"

model = dict(backbone=dict(arch="small_plus"))

"""UniFormer-B with layer scale on ImageNet-1k, 300 epochs; see `imagenet_uniformer_s.py`.

Command:   python tools/train.py configs/imagenet_uniformer_b_ls.py
Weights:   python tools/reproduce.py uniformer_base_ls_in1k uniformer_base_ls_paddle
Published: top-1 83.9 with 50M parameters and 8.3G FLOPs at 224×224
"""

_base_ = "imagenet_uniformer_b.py"

model = dict(backbone=dict(arch="base_ls"))

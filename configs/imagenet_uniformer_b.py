"""UniFormer-B on ImageNet-1k, 300 epochs; see `imagenet_uniformer_s.py`.

Command:   python tools/train.py configs/imagenet_uniformer_b.py
Weights:   python tools/reproduce.py uniformer_base_in1k uniformer_base_paddle
Published: top-1 83.8 with 50M parameters and 8.3G FLOPs at 224×224
"""

_base_ = "imagenet_uniformer_s.py"

model = dict(backbone=dict(arch="base", drop_path_rate=0.3))
optim_wrapper = dict(optimizer=dict(lr=8e-4))
iters = dict(by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    # from 1e-6
    dict(type="LinearLR", start_factor=1.25e-3, end=5, **iters),
    dict(type="CosineAnnealingLR", eta_min=1e-5, begin=5, end=300, **iters),
]

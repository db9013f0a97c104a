"""BiFormer-T on ImageNet-1k, 300 epochs; see `imagenet_biformer_s.py`.

Command:   python tools/train.py configs/imagenet_biformer_t.py
Weights:   python tools/reproduce.py biformer_tiny_in1k --file FILE (no address works any more)
Published: top-1 81.4 with 13.1M parameters and 2.2G FLOPs at 224×224
"""

_base_ = "imagenet_biformer_s.py"

model = dict(backbone=dict(arch="tiny", drop_path_rate=0.1))

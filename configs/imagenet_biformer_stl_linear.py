"""BiFormer-STL with linear layers and the first operator, 300 epochs; see `imagenet_biformer_s.py`.

Command:   python tools/train.py configs/imagenet_biformer_stl_linear.py
Weights:   python tools/reproduce.py biformer_stl_in1k --file FILE (no address works any more)
Published: top-1 82.7 with 28.4M parameters and 4.6G FLOPs at 224×224
Note:      published as biformer_stl; `imagenet_biformer_stl.py` is biformer_stl_nchw
"""

_base_ = "imagenet_biformer_stl.py"

model = dict(backbone=dict(arch="stl_linear"))

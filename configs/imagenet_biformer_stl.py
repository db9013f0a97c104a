"""BiFormer-STL on ImageNet-1k, 300 epochs; see `imagenet_biformer_s.py`.

Command:   python tools/train.py configs/imagenet_biformer_stl.py
Weights:   python tools/reproduce.py biformer_stl_nchw_in1k --file FILE (no address works any more)
Published: top-1 82.7 with 28.4M parameters and 4.6G FLOPs at 224×224
"""

_base_ = "imagenet_biformer_s.py"

model = dict(
    backbone=dict(arch="stl", drop_path_rate=0.1),
    head=dict(in_channels=768),
)

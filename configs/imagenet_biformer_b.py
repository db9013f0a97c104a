"""BiFormer-B on ImageNet-1k, 300 epochs; see `imagenet_biformer_s.py`.

Command:   python tools/train.py configs/imagenet_biformer_b.py
Weights:   python tools/reproduce.py biformer_base_in1k --file FILE (no address works any more)
Published: top-1 84.3 with 56.8M parameters and 9.8G FLOPs at 224×224
Note:      drop_path_rate was not published; it is ours, that of UperNet with BiFormer-B
"""

_base_ = "imagenet_biformer_s.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.4),
    head=dict(in_channels=768),
)

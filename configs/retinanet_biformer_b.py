"""RetinaNet with BiFormer-B on COCO, 1x; see `retinanet_biformer_s.py`.

Command:   python tools/train.py configs/retinanet_biformer_b.py
Published: box AP 47.1
"""

_base_ = "retinanet_biformer_s.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint="biformer_base_in1k")),
    neck=dict(in_channels=[192, 384, 768]),
)

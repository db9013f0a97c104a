"""Semantic FPN with UniFormer-B on ADE20K, 80k; see `fpn_uniformer_s.py`.

Command:   python tools/train.py configs/fpn_uniformer_b.py
Weights:   python tools/reproduce.py fpn_uniformer_b
Published: mIoU 48.0 with 54M parameters and 471G FLOPs at 512×2048
"""

_base_ = "fpn_uniformer_s.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.2, init_cfg=dict(checkpoint="uniformer_base_in1k"))
)

"""Mask R-CNN with UniFormer-B on COCO, 1x; see `maskrcnn_uniformer_s.py`.

Command:   python tools/train.py configs/maskrcnn_uniformer_b.py
Weights:   python tools/reproduce.py maskrcnn_uniformer_b
Published: box AP 47.4, mask AP 43.1 with 69M parameters and 399G FLOPs at 800×1280
"""

_base_ = "maskrcnn_uniformer_s.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.3,
        with_cp=False,
        init_cfg=dict(checkpoint="uniformer_base_in1k"),
    )
)

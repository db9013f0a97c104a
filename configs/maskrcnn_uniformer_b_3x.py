"""Mask R-CNN with UniFormer-B on COCO, 3x; see `maskrcnn_uniformer_s_3x.py`.

Command:   python tools/train.py configs/maskrcnn_uniformer_b_3x.py
Weights:   python tools/reproduce.py maskrcnn_uniformer_b_3x
Published: box AP 50.3, mask AP 44.8 with 69M parameters and 399G FLOPs at 800×1280
"""

_base_ = "maskrcnn_uniformer_s_3x.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.3,
        with_cp=(0, 0, 20, 0),
        init_cfg=dict(checkpoint="uniformer_base_in1k"),
    )
)

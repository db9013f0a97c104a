"""Cascade Mask R-CNN with UniFormer-B on COCO, 3x; see `cascade_maskrcnn_uniformer_s_3x.py`.

Command:   python tools/train.py configs/cascade_maskrcnn_uniformer_b_3x.py
Weights:   python tools/reproduce.py cascade_maskrcnn_uniformer_b_3x
Published: box AP 53.8, mask AP 46.4 with 107M parameters and 878G FLOPs at 800×1280
"""

_base_ = "cascade_maskrcnn_uniformer_s_3x.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.4,
        with_cp=(0, 0, 20, 0),
        init_cfg=dict(checkpoint="uniformer_base_in1k"),
    )
)

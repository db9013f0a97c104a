"""Cascade R-CNN with UniFormer-XXS; see `cascade_rcnn_swiftformer_xs.py`.

Command:   python tools/train.py configs/cascade_rcnn_uniformer_xxs.py
Published: no published result: the combination is ours
"""

_base_ = "cascade_rcnn_swiftformer_xs.py"

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="UniFormerLight", arch="xxs"),
        init_cfg=dict(type="Published", checkpoint="uniformer_xxs_224_in1k"),
    ),
    neck=dict(in_channels=[56, 112, 224, 448]),
)

"""Mask2Former on COCO with UniFormer-XXS; see `mask2former_coco_swiftformer_xs.py`.

Command:   python tools/train.py configs/mask2former_coco_uniformer_xxs.py
Published: no published result: the combination is ours
"""

_base_ = "mask2former_coco_swiftformer_xs.py"

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="UniFormerLight", arch="xxs"),
        init_cfg=dict(type="Published", checkpoint="uniformer_xxs_224_in1k"),
    ),
    panoptic_head=dict(in_channels=[56, 112, 224, 448]),
)

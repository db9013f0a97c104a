"""RetinaNet with UniFormer-XXS on COCO, 1x; see `retinanet_uniformer_s.py`.

Command:   python tools/train.py configs/retinanet_uniformer_xxs.py
           from ImageNet weights: --pretrained
Published: no RetinaNet result of UniFormer
"""

_base_ = "retinanet_uniformer_s.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="UniFormerLight",
        arch="xxs",
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Published", checkpoint="uniformer_xxs_224_in1k"),
    ),
    neck=dict(in_channels=[112, 224, 448]),
)

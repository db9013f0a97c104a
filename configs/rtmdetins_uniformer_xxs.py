"""RTMDet-Ins-s with UniFormer-XXS; see `rtmdetins_swiftformer_xs.py`.

Command:   python tools/train.py configs/rtmdetins_uniformer_xxs.py
Published: no published result: the combination is ours
"""

_base_ = "rtmdetins_swiftformer_xs.py"

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="UniFormerLight", arch="xxs", out_indices=(1, 2, 3)),
        init_cfg=dict(type="Published", checkpoint="uniformer_xxs_224_in1k"),
    ),
    neck=dict(in_channels=[112, 224, 448]),
)

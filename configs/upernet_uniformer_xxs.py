"""UperNet with UniFormer-XXS on ADE20K, 160k at 512×512; see `upernet_uniformer_s.py`.

Command:   python tools/train.py configs/upernet_uniformer_xxs.py
           from ImageNet weights: --pretrained
Published: no UperNet result of UniFormer-XXS
"""

_base_ = "upernet_uniformer_s.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="UniFormerLight",
        arch="xxs",
        init_cfg=dict(type="Published", checkpoint="uniformer_xxs_224_in1k"),
    ),
    decode_head=dict(in_channels=[56, 112, 224, 448]),
    auxiliary_head=dict(in_channels=224),
)

"""UperNet with BiFormer-B on ADE20K, 160k; see `upernet_biformer_s.py`.

Command:   python tools/train.py configs/upernet_biformer_b.py
Published: mIoU 51.0, 51.7 at many scales
"""

_base_ = "upernet_biformer_s.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.4, init_cfg=dict(checkpoint="biformer_base_in1k")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

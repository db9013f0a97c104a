"""UperNet with UniFormer-B on ADE20K, 160k; see `upernet_uniformer_s.py`.

Command:   python tools/train.py configs/upernet_uniformer_b.py
Weights:   python tools/reproduce.py upernet_uniformer_b
Published: mIoU 50.0, 50.8 at many scales, with 80M parameters and 1227G FLOPs at 512×2048
"""

_base_ = "upernet_uniformer_s.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.4,
        with_cp=(0, 0, 2, 0),
        init_cfg=dict(checkpoint="uniformer_base_in1k"),
    )
)

"""LocFormer's guidance by sketches in front of the stages of a UniFormer-S, on COCO.

Paper:     beyond Tripathi et al., Query-guided Attention in Vision Transformers for Localizing
           Objects Using a Single Sketch, WACV 2024, https://arxiv.org/abs/2303.08784
Command:   python tools/train.py configs/locformer_uniformer_s.py
           from ImageNet weights: --pretrained
Published: nothing; the combination is ours
"""

_base_ = "locformer_swin_t.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="SketchGuided",
        num_queries=100,
        dropout=0.4,
        backbone=dict(
            type="UniFormer",
            arch="small",
            attention="hybrid",
            drop_path_rate=0.1,
            out_indices=(1, 2, 3),
            with_cp=(0, 0, 8, 0),
            init_cfg=dict(type="Published", checkpoint="uniformer_small_in1k"),
        ),
    ),
    neck=dict(in_channels=[128, 320, 512, 256]),
)

"""LocFormer with Swin-S on COCO, asked for by QuickDraw's sketches.

Paper:     Tripathi et al., Query-guided Attention in Vision Transformers for Localizing
           Objects Using a Single Sketch, WACV 2024, https://arxiv.org/abs/2303.08784
Command:   python tools/train.py configs/locformer_swin_s.py
Published: nothing; the released code has the size
"""

_base_ = "locformer_swin_t.py"
model = dict(backbone=dict(arch="small", drop_path_rate=0.3))

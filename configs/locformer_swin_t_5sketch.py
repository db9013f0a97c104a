"""LocFormer with Swin-T on COCO, asked for by five sketches at a time.

Paper:     Tripathi et al., Query-guided Attention in Vision Transformers for Localizing
           Objects Using a Single Sketch, WACV 2024, https://arxiv.org/abs/2303.08784
Command:   python tools/train.py configs/locformer_swin_t_5sketch.py
Published: nothing; the released byte code has the fusion of several sketches
"""

_base_ = "locformer_swin_t.py"
model = dict(mix_sketches=True)
train_dataloader = dict(dataset=dict(num_sketches=5))
val_dataloader = dict(dataset=dict(num_sketches=5))
test_dataloader = dict(dataset=dict(num_sketches=5))

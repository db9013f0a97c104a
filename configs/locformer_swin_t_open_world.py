"""LocFormer with Swin-T on COCO: trained on 41 categories, tested on 14 others.

Paper:     Tripathi et al., Query-guided Attention in Vision Transformers for Localizing
           Objects Using a Single Sketch, WACV 2024, https://arxiv.org/abs/2303.08784
Command:   python tools/train.py configs/locformer_swin_t_open_world.py
Published: AP50 of large unseen objects 12.2 above the best until then; whether on these 14, every
           fourth of the released list, is not published. Boxes of unseen categories are background
           in training
"""

_base_ = "locformer_swin_t.py"
train_dataloader = dict(dataset=dict(subset="seen"))
val_dataloader = dict(dataset=dict(subset="unseen"))
test_dataloader = dict(dataset=dict(subset="unseen"))

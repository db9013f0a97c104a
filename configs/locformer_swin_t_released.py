"""LocFormer with Swin-T on COCO, scored as the released code does rather than as the paper says.

Paper:     Tripathi et al., Query-guided Attention in Vision Transformers for Localizing
           Objects Using a Single Sketch, WACV 2024, https://arxiv.org/abs/2303.08784
Command:   python tools/train.py configs/locformer_swin_t_released.py
Published: the released code does not run; see `released` of SketchDETRHead for the difference
"""

_base_ = "locformer_swin_t.py"
model = dict(bbox_head=dict(released=True))
# the sketch that the last level refines is not used
find_unused_parameters = True

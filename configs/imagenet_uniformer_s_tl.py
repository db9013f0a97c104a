"""UniFormer-S with token labelling on ImageNet-1k, 300 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_s_tl.py
Weights:   python tools/reproduce.py uniformer_small_tl_224 uniformer_small_dim64_tl_224
           uniformer_small_tl_384
Published: top-1 83.4 with 22M parameters and 3.6G FLOPs at 224×224; 84.6 at 384×384; 83.4
           with 64 channels a head
Note:      the schedule of `imagenet_uniformer_s.py`; published with label maps for the tokens, by
           an NFNet-F6, which are not used here: every token learns the label of its image
"""

_base_ = "imagenet_uniformer_s.py"

# the head takes the tokens, pooled or not
model = dict(
    backbone=dict(arch="small_dim32"),
    neck=None,
    head=dict(type="TokenLabelHead"),
)

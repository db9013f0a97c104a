"""UniFormer-S† with token labelling on ImageNet-1k, 300 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_s_plus_tl.py
Weights:   python tools/reproduce.py uniformer_small_plus_tl_224
           uniformer_small_plus_dim64_tl_224 uniformer_small_plus_tl_384
Published: top-1 83.9 with 24M parameters and 4.2G FLOPs at 224×224; 84.9 at 384×384; 83.6
           with 64 channels a head
Note:      `imagenet_uniformer_s_tl.py` says what is different in training
"""

_base_ = "imagenet_uniformer_s_tl.py"

model = dict(backbone=dict(arch="small_plus", drop_path_rate=0.1))

"""UniFormer-B with token labelling on ImageNet-1k, 300 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_b_tl.py
Weights:   python tools/reproduce.py uniformer_base_tl_224 uniformer_base_dim64_tl_224
           uniformer_base_tl_384
Published: top-1 85.1 with 50M parameters and 8.3G FLOPs at 224×224; 86.0 at 384×384; 84.8
           with 64 channels a head
Note:      `imagenet_uniformer_s_tl.py` says what is different in training
"""

_base_ = "imagenet_uniformer_s_tl.py"

model = dict(backbone=dict(arch="base_dim32", drop_path_rate=0.3))

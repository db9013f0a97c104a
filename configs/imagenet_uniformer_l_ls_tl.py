"""UniFormer-L with layer scale with token labelling on ImageNet-1k, 300 epochs.

Paper:     Li et al., UniFormer: Unifying Convolution and Self-attention for Visual
           Recognition, TPAMI 2023, https://arxiv.org/abs/2201.09450
Command:   python tools/train.py configs/imagenet_uniformer_l_ls_tl.py
Weights:   python tools/reproduce.py uniformer_large_ls_tl_224 uniformer_large_ls_tl_384
Published: top-1 85.6 with 100M parameters and 12.6G FLOPs at 224×224; 86.3 at 384×384
Note:      `imagenet_uniformer_s_tl.py` says what is different in training
"""

_base_ = "imagenet_uniformer_s_tl.py"

model = dict(backbone=dict(arch="large_ls", drop_path_rate=0.4), head=dict(in_channels=640))

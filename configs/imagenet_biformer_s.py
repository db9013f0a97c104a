"""BiFormer-S on ImageNet-1k, 300 epochs.

Paper:     Zhu et al., BiFormer: Vision Transformer with Bi-Level Routing Attention,
           CVPR 2023, https://arxiv.org/abs/2303.08810
Command:   python tools/train.py configs/imagenet_biformer_s.py
           in mixed precision, as published: --amp
Weights:   python tools/reproduce.py biformer_small_in1k --file FILE (no address works any more)
Published: top-1 83.8 with 25.5M parameters and 4.5G FLOPs at 224×224
Departs:   rate decay: by iteration from the end of the warm-up, published by epoch from the start
"""

_base_ = [
    "_base_/models/classifier.py",
    "_base_/schedules/imagenet_300e.py",
    "_base_/datasets/imagenet_strong.py",
    "_base_/runtime_classification.py",
]

model = dict(
    backbone=dict(
        type="BiFormer",
        arch="small",
        num_windows=7,
        drop_path_rate=0.15,
        out_norm="final",
        out_indices=(3,),
    ),
    head=dict(in_channels=512),
)
train_dataloader = dict(sampler=dict(type="SeededRepeatAugSampler"))

"""Mask R-CNN with SwiftFormer-L1 on COCO, 1x at batch 32.

Paper:     Shaker et al., SwiftFormer: Efficient Additive Attention for Transformer-based
           Real-time Mobile Vision Applications, ICCV 2023, https://arxiv.org/abs/2303.15446
Command:   python tools/train.py configs/maskrcnn_swiftformer_l1.py
           from ImageNet weights, as published: --pretrained
Published: box AP 41.2, mask AP 38.1
Note:      decay, warm-up, steps and synchronised statistics were not published; they are ours
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "_base_/schedules/coco_adamw_1x.py",
    "_base_/datasets/coco_instance.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="l1"),
        init_cfg=dict(type="Published", checkpoint="swiftformer_l1_in1k"),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)

optim_wrapper = dict(optimizer=dict(lr=2e-4))
# 8 GPUs of 4 images
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
sync_bn = "torch"

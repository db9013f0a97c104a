"""RTMDet-Ins-s with SwiftFormer-XS on COCO, 3x, many scales.

Paper:     Lyu et al., RTMDet: An Empirical Study of Designing Real-Time Object Detectors, 2022,
           https://arxiv.org/abs/2212.07784
Command:   python tools/train.py configs/rtmdetins_swiftformer_xs.py
           from ImageNet weights, as RTMDet was: --pretrained
Published: no published result: the combination is ours
Note:      36 epochs at DETR's scales; RTMDet was trained for 300, on mosaics of 640×640
"""

_base_ = [
    "_base_/models/rtmdetins_s.py",
    "_base_/schedules/coco_adamw_3x.py",
    "_base_/datasets/coco_instance_ms.py",
    "_base_/runtime_detection.py",
]

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="SwiftFormer", arch="xs", out_indices=(1, 2, 3)),
        init_cfg=dict(type="Published", checkpoint="swiftformer_xs_in1k"),
    ),
    neck=dict(in_channels=[56, 112, 220]),
)

# the heads share convolutions between levels
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True))
sync_bn = "torch"
# without objects in a batch, the head's kernels have no gradient
find_unused_parameters = True

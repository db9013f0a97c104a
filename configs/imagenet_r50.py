"""ResNet-50 on ImageNet-1k, 90 epochs: the baseline of the `imagenet_acmix_*` configs.

Paper:     He et al., Deep Residual Learning for Image Recognition, CVPR 2016,
           https://arxiv.org/abs/1512.03385
Command:   python tools/train.py configs/imagenet_r50.py
Published: top-1 76.55 (mmpretrain's model zoo, 100 epochs without smoothing)
"""

_base_ = [
    "mmpretrain::_base_/models/resnet50.py",
    "_base_/schedules/imagenet_90e.py",
    "_base_/datasets/imagenet.py",
    "_base_/runtime_classification.py",
]

# the script spreads 0.1 over the 999 wrong classes, mmpretrain over all 1000
smoothing = 0.1 * 1000 / 999
model = dict(
    head=dict(
        # PyTorch's, as in the script
        init_cfg=None,
        loss=dict(
            _delete_=True, type="LabelSmoothLoss", label_smooth_val=smoothing, mode="original"
        ),
    )
)

"""Semantic FPN with UniFormer-S on label maps of your own; see docs/own_data.md.

Command:   python tools/train.py configs/own_data_fpn.py --fresh-head
           --cfg-options own_data.root=FOLDER own_data.classes=[CLASS,CLASS]
           or from a config of yours that inherits this one
Published: no published result: the data are yours
"""

_base_ = "fpn_uniformer_s.py"

own_data = dict(
    root="data/own",
    classes=None,
    train=dict(images="images/train", annotations="labels/train"),
    val=dict(images="images/val", annotations="labels/val"),
)
# a segmentor published on ADE20K, of which --fresh-head leaves out the layer for its 150 classes
load_from = "fpn_uniformer_s"
# a quarter of the published schedule, at the learning rate of 32 images a step
auto_scale_lr = dict(enable=True)
train_cfg = dict(max_iters=20000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-8, begin=500, end=20000, by_epoch=False),
]

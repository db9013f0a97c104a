"""UniFormer-S on images of your own in a folder for each class; see docs/own_data.md.

Command:   python tools/train.py configs/own_data_classifier.py --fresh-head
           --cfg-options own_data.root=FOLDER, or from a config of yours that inherits this one
Published: no published result: the data are yours
"""

_base_ = "imagenet_uniformer_s.py"

own_data = dict(root="data/own", train=dict(images="train"), val=dict(images="val"))
# a classifier published on ImageNet-1k, of which --fresh-head leaves out the layer for its classes
load_from = "uniformer_small_in1k"
# each image once an epoch: own data are few, and repetitions would take the place of others
train_dataloader = dict(batch_size=64, sampler=dict(type="SeededSampler"))
# a tenth of the published schedule, at the learning rate of 1024 images a step
auto_scale_lr = dict(enable=True)
iters = dict(by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(max_epochs=30)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=3, **iters),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, begin=3, end=30, **iters),
]

"""Mask R-CNN with UniFormer-S on data of your own in COCO's format; see docs/own_data.md.

Command:   python tools/train.py configs/own_data_maskrcnn.py --fresh-head
           --cfg-options own_data.root=FOLDER, or from a config of yours that inherits this one
Published: no published result: the data are yours
"""

_base_ = "maskrcnn_uniformer_s.py"

own_data = dict(
    root="data/own",
    train=dict(images="train", annotations="train.json"),
    val=dict(images="val", annotations="val.json"),
)
# a detector published on COCO, of which --fresh-head leaves out the layers for its 80 classes
load_from = "maskrcnn_uniformer_s"
# the learning rate is that of 16 images a step
auto_scale_lr = dict(enable=True)

"""LocFormer with Swin-T on COCO, asked for by QuickDraw's sketches.

Paper:     Tripathi et al., Query-guided Attention in Vision Transformers for Localizing
           Objects Using a Single Sketch, WACV 2024, https://arxiv.org/abs/2303.08784
Command:   python tools/train.py configs/locformer_swin_t.py
           from ImageNet weights, as published: --cfg-options
           model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE.pth
Published: box AP about 48.0 on all 56 categories (6.6 above the best until then, 41.4), with 87M
           parameters in the released code
Departs:   categories: 55, without "mouse" (why, says _base_/datasets/coco_sketch.py);
           scores: as the paper says (`locformer_swin_t_released.py` has the released ones);
           steps: after 10 epochs, released before epochs 0 and 3;
           no decay: all parameters of one dimension, released those of the backbone
"""

_base_ = [
    "_base_/models/locformer_swin_t.py",
    "_base_/datasets/coco_sketch.py",
    "_base_/schedules/sketch_12e.py",
    "_base_/runtime_sketch.py",
]

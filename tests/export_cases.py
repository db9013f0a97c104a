"""Small models of each kind with their configs and checkpoints, which are exported in seconds."""

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

TINY = dict(depths=(1, 1, 1, 1), embed_dims=(16, 16, 16, 16))


def small_classifier(repository, folder):
    """Save a small SwiftFormer as small.py and small.pth; return the model and its config."""
    cfg = Config.fromfile(repository / "configs/imagenet_swiftformer_xs.py")
    cfg.model.backbone.arch = TINY
    cfg.model.head.update(in_channels=16, num_classes=6)
    return _save(cfg, folder, list("abcdef")), cfg


def small_segmentor(repository, folder, **head):
    """Save a small Semantic FPN as small.py and small.pth; return the model and its config."""
    cfg = Config.fromfile(repository / "configs/fpn_swiftformer_l1.py")
    cfg.model.backbone.update(arch=TINY, init_cfg=None)
    cfg.model.neck.update(in_channels=[16] * 4, out_channels=16)
    cfg.model.decode_head.update(in_channels=[16] * 4, channels=16, num_classes=5)
    cfg.model.decode_head.update(head)
    return _save(cfg, folder, list("abcde")[: cfg.model.decode_head.num_classes]), cfg


def small_binary_segmentor(repository, folder):
    """Save a small Semantic FPN of two classes, whose head has one channel."""
    # a fresh one gives sigmoids close to 0.5, on both sides of this
    return small_segmentor(repository, folder, num_classes=2, out_channels=1, threshold=0.51)


def _save(cfg, folder, classes):
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    if "decode_head" in cfg.model:
        # a fresh head predicts one class everywhere
        last = model.decode_head.conv_seg
        torch.nn.init.normal_(last.weight)
        with torch.no_grad():
            logits = model(torch.randn(1, 3, 64, 64), mode="tensor")
            last.bias -= logits.mean((0, 2, 3))
    cfg.dump(folder / "small.py")
    palette = [[40 * i, 0, 0] for i in range(len(classes))]
    meta = dict(dataset_meta=dict(classes=classes, palette=palette))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "small.pth")
    return model

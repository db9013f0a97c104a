"""Whole models in the names of the publications: stand-ins for the authors' files."""

import re
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.structures import SegDataSample

from hybrid_backbones.mini.preset import dicts

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DETECTORS = [
    *("maskrcnn_uniformer_xxs", "maskrcnn_uniformer_xs", "maskrcnn_uniformer_s"),
    *("maskrcnn_uniformer_s_3x", "maskrcnn_uniformer_b", "maskrcnn_uniformer_b_3x"),
    *("cascade_maskrcnn_uniformer_s_3x", "cascade_maskrcnn_uniformer_b_3x"),
]
SEGMENTORS = [
    *("fpn_uniformer_xxs", "fpn_uniformer_xs", "fpn_uniformer_s", "fpn_uniformer_b"),
    *("fpn_uniformer_b_h14", "upernet_uniformer_s", "upernet_uniformer_b"),
]
# from our names of UniFormer to those of its publication
PUBLISHED_NAMES = (
    (r"^stem\.(?=\d)", "patch_embed1.proj."),
    (r"^stem\.", "patch_embed1."),
    (r"^stages\.[23]\.downsample\.cls_", "cls_"),
    (r"^stages\.([0-3])\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}."),
    (r"^stages\.([01])\.(\d+)\.attn\.", r"stages.\1.\2."),
    (r"^stages\.([0-3])\.", lambda m: f"blocks{int(m[1]) + 1}."),
    (r"^norms\.([0-3])\.", lambda m: f"norm{int(m[1]) + 1}."),
)


def read_config(name, num_classes=None):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    for settings in dicts(cfg.model):
        # of one process
        if settings.get("type") == "SyncBN":
            settings.type = "BN"
        if num_classes is not None and "num_classes" in settings:
            settings.num_classes = num_classes
    return cfg


def build_model(name, num_classes=None, device="cpu"):
    cfg = read_config(name, num_classes)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device(device):
        return MODELS.build(cfg.model)


def published_name(entry):
    """Return the published name of an entry of a UniFormer."""
    for pattern, replacement in PUBLISHED_NAMES:
        entry = re.sub(pattern, replacement, entry)
    return entry


def publish(model):
    """Return a model's weights as its authors' training script would have saved them."""
    weights = {}
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            name = f"backbone.{published_name(name.removeprefix('backbone.'))}"
        weights[name] = value.clone()
    return weights


def randomise(model):
    """Give every entry of a model values that initialisation would not give it."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
    return model


@torch.no_grad()
def predict(model):
    """Return what a detector or segmentor finds in an image of noise, at any score."""
    image = torch.randint(256, (3, 64, 96), generator=torch.Generator().manual_seed(1))
    meta = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    sample = DetDataSample if hasattr(model, "roi_head") else SegDataSample
    if hasattr(model, "roi_head"):
        model.roi_head.test_cfg.update(score_thr=0.0, max_per_img=5)
    batch = dict(inputs=[image.byte()], data_samples=[sample(metainfo=meta)])
    (found,) = model.eval().test_step(batch)
    if hasattr(model, "roi_head"):
        objects = found.pred_instances
        assert len(objects)
        return objects.bboxes, objects.scores, objects.labels, objects.masks
    return (found.seg_logits.data,)

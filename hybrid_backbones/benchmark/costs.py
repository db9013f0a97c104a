"""Costs of the model of a config: its parameters, and its MACs for one image."""

from copy import deepcopy

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..locformer.quickdraw import CANVAS
from ..mini.queries import has_queries
from ..mini.settings import dicts
from ..ops import ACmix
from ..settings import type_name
from .probes import count_macs

# numbers of RoIs that OpenMMLab's counters pass through box heads and mask heads
NUM_BOX_ROIS, NUM_MASK_ROIS = 1000, 100


def count_costs(cfg: Config, size: tuple[int, int]) -> tuple[int, int]:
    """Count the parameters of a config's model, and its MACs for one image of H×W pixels.

    MACs are those of :func:`~.probes.count_macs`. RoI heads get fixed numbers of RoIs, and a
    detector by sketch gets one query.
    """
    # models of the DETR family write into their settings, from which they cannot be built again
    settings = deepcopy(cfg.model)
    if cfg.default_scope == "mmpretrain":
        settings.data_preprocessor = cfg.data_preprocessor
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(settings).eval()
    params = sum(p.numel() for p in model.parameters())
    if "sketch_encoder" in cfg.model:
        return params, count_macs(model, (1, 3, *size), _query_shape(cfg))
    backbone = model.backbone.to("meta")
    features: list[torch.Size] = []
    backbone.register_forward_hook(lambda _, __, maps: features.extend(x.shape for x in maps))
    macs = _count_backbone(backbone, (1, 3, *size))
    # its weights, which have no values now, do not take part in what follows
    del model.backbone
    if has_queries(cfg.model):
        # they read the sizes of the maps as values, which the meta device does not have
        return params, macs + count_macs(_QueryHeads(model, size), *features)
    return params, macs + count_macs(_Heads(model).to("meta"), *features)


def _query_shape(cfg: Config) -> tuple[int, ...]:
    """Return the shape of one query: its sketches, as the validation data renders them."""
    dataset = cfg.val_dataloader.dataset
    render = next(step for step in dicts(dataset) if type_name(step.get("type")) == "RenderSketch")
    side = render.get("size", CANVAS)
    return (1, dataset.num_sketches, 3, side, side)


def _count_backbone(backbone: BaseModule, shape: tuple[int, ...]) -> int:
    local_attention = []

    def count_neighbours(module: ACmix, _, out: Tensor) -> None:
        # products of query and key, and of weight and value
        local_attention.append(2 * module.attn_kernel_size**2 * out.numel())

    for module in backbone.modules():
        if isinstance(module, ACmix):
            # tiles also compute masked logits, and masks on the meta device have no values; the
            # counter sees no products of the reference, so that the hook counts all of them
            module.attn_backend = "reference"
            module.register_forward_hook(count_neighbours)
    return count_macs(backbone, shape) + sum(local_attention)


class _Heads(nn.Module):
    """Neck and heads of a model, run with fixed numbers of RoIs."""

    def __init__(self, model: BaseModel):
        super().__init__()
        self.model = model

    def forward(self, *features: Tensor) -> None:
        model = self.model
        if getattr(model, "neck", None) is not None:
            features = model.neck(features)
        for head in ("head", "decode_head", "bbox_head", "rpn_head"):
            if isinstance(getattr(model, head, None), nn.Module):
                getattr(model, head)(features)
        if hasattr(model, "roi_head"):
            _run_roi_head(model.roi_head, features[0])


def _run_roi_head(roi_head: BaseModule, features: Tensor) -> None:
    for name, num_rois in (("bbox", NUM_BOX_ROIS), ("mask", NUM_MASK_ROIS)):
        if not getattr(roi_head, f"with_{name}"):
            continue
        extractors = getattr(roi_head, f"{name}_roi_extractor")
        heads = getattr(roi_head, f"{name}_head")
        if not isinstance(heads, nn.ModuleList):
            extractors, heads = [extractors], [heads]
        for extractor, head in zip(extractors, heads, strict=True):
            side = extractor.roi_layers[0].output_size
            head(features.new_zeros(num_rois, features.shape[1], *side))


class _QueryHeads(nn.Module):
    """Neck and head of a model with queries, for one image without padding."""

    def __init__(self, model: BaseModel, size: tuple[int, int]):
        super().__init__()
        self.model = model
        self.samples = [DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size))]

    def forward(self, *features: Tensor) -> None:
        model = self.model
        if getattr(model, "neck", None) is not None:
            features = model.neck(features)
        if hasattr(model, "forward_transformer"):
            model.bbox_head(**model.forward_transformer(features, self.samples))
        else:
            head = getattr(model, "panoptic_head", None) or model.decode_head
            head(features, self.samples)

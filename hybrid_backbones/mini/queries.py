"""Mini preset of heads with queries: those of the DETR family and of Mask2Former.

In each step such a head learns from a few queries only, those that are matched with an object, so
it needs many more steps than a head with anchors or points. The preset therefore shrinks its
transformers, as that of LocFormer does, so that more steps fit into the minutes of a mini run.
"""

from collections.abc import Iterator

from mmengine.config import ConfigDict

from .settings import dicts

# upper limits, by the names that mmdet and mmseg give them
LIMITS = dict(
    num_queries=30,
    num_dn_queries=30,
    num_layers=3,
    embed_dims=128,
    feat_channels=128,
    out_channels=128,
    num_feats=64,
    feedforward_channels=512,
    # of a mask, which has about so many values at stride 4
    num_points=1024,
    # would slow down a short training
    dropout=0.0,
    ffn_drop=0.0,
)
# of the numbers of channels, which DINO of mmdet 3.3 has written in where it encodes coordinates
WIDTHS = ("embed_dims", "feat_channels", "out_channels", "num_feats")
# learning-rate multipliers by parameter name, as in Deformable DETR
SLOW = dict(sampling_offsets=0.1, reference_points=0.1)


def has_queries(model: ConfigDict) -> bool:
    """Return whether a model matches queries with objects."""
    return any("num_queries" in part for part in _parts(model))


def shrink_queries(model: ConfigDict) -> None:
    """Shrink all of a model with queries but its backbone, in place.

    Args:
        model: settings of a detector or segmentor.
    """
    fixed = WIDTHS if model.type == "DINO" else ()
    limits = {key: limit for key, limit in LIMITS.items() if key not in fixed}
    for part in _parts(model):
        part.update({key: min(part[key], limit) for key, limit in limits.items() if key in part})
    if "bbox_head" in model and not fixed:
        # for which configs of the DETR family rely on a default of 256
        model.bbox_head.embed_dims = LIMITS["embed_dims"]


def _parts(model: ConfigDict) -> Iterator[ConfigDict]:
    """Iterate over the model and all dicts in it but the backbone's."""
    yield model
    for key, settings in model.items():
        if key != "backbone":
            yield from dicts(settings)

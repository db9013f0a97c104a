"""Weights from which a training starts: published ones by name, only where they are asked for."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..checkpoints import PUBLISHED
from ..mini.preset import dicts


def choose_weights(cfg: Config, options: Mapping[str, Any], *, pretrained: bool) -> str | None:
    """Keep the published weights that a config names, or remove them, in place.

    Args:
        cfg: config whose modules may have ``init_cfg=dict(type='Published', checkpoint=NAME)``.
        options: overrides of the command line; weights that these name are always kept.
        pretrained: whether to start from the weights that the config names.

    Returns:
        line for the log, None if the config names no published weights.

    Raises:
        ValueError: if the weights are wanted, and the config names none.
    """
    named = [s.init_cfg for s in dicts(cfg.model) if _is_published(s.get("init_cfg"))]
    if pretrained and not named:
        raise ValueError(
            "--pretrained: the config names no published weights: name yours by --cfg-options "
            "model.backbone.init_cfg.type=Published model.backbone.init_cfg.checkpoint=FILE"
        )
    kept = [x.checkpoint for x in named if pretrained or x.checkpoint in options.values()]
    removed = [x.checkpoint for x in named if x.checkpoint not in kept]
    for settings in list(dicts(cfg.model)):
        if _is_published(settings.get("init_cfg")) and settings.init_cfg.checkpoint in removed:
            del settings["init_cfg"]
    if removed:
        return f"training from scratch; published from {', '.join(removed)}, as with --pretrained"
    return f"training from {', '.join(kept)}" if kept else None


def _is_published(init_cfg: Any) -> bool:
    """Return whether an initialisation is that by weights of :data:`PUBLISHED`."""
    return (
        isinstance(init_cfg, dict)
        and init_cfg.get("type") == "Published"
        and init_cfg.get("checkpoint") in PUBLISHED
    )

"""Merging of the X-volutions of a trained network into a smaller checkpoint and config.

Files are written only if the network built from the new config with the new weights computes the
same feature maps as the trained one.
"""

import io
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..checkpoints import load_trained, read_checkpoint
from ..mini.preset import dicts
from ..ops.xvolution import merge_xvolutions
from ..settings import type_name
from ..training.requirements import require_keys, require_writable_file
from ..training.saving import AtomicLocalBackend

# relative to the largest value of each map; float32 errors of a whole network are far smaller
TOLERANCE = 1e-4


def merged_config(cfg: Config) -> Config:
    """Return the config of the merged model: its networks and operators are built merged.

    The backbone's `init_cfg` is removed, since the weights that it names are not merged.
    """
    cfg = deepcopy(cfg)
    for settings in dicts(cfg.model):
        kind = type_name(settings.get("type"))
        if kind == "XVolutionResNet":
            settings.merged = True
        elif kind == "XVolution":
            settings.type = "MergedXVolution"
            settings.pop("attention", None)
        if "pretrained" in settings:
            settings.pretrained = None
    cfg.model.backbone.init_cfg = None
    cfg.load_from, cfg.resume = None, False
    return cfg


def reparameterize(cfg: Config, checkpoint: str | Path, out: str | Path) -> Path:
    """Merge a trained model; write its checkpoint to `out`, and its config beside it as ``.py``.

    The new checkpoint keeps the meta data of the given one, except for `cfg`, which becomes the
    written config.

    Args:
        cfg: config of the trained model.
        checkpoint: checkpoint of the trained model.
        out: path of the new checkpoint, ``.pth``; neither it nor the config may exist.

    Returns:
        path of the written config.

    Raises:
        ValueError: if a file is missing, does not fit, already exists or cannot be written, if the
            model cannot be merged, or if the merged model computes different feature maps.
    """
    out = Path(out)
    config = out.with_suffix(".py")
    if out.suffix != ".pth":
        raise ValueError(f"the merged checkpoint must end with .pth, got {out}")
    for path in (out, config):
        if path.exists():
            raise ValueError(f"{path} exists and is not overwritten: choose another name")
        require_writable_file(path)
    require_keys(cfg, "default_scope", "model")
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_trained(model, checkpoint)
    trained = deepcopy(model.eval())
    merge_xvolutions(model)
    images = torch.randn(2, 3, 97, 131, generator=torch.Generator().manual_seed(0))
    expected = _run(trained.backbone, images)
    merged_cfg = merged_config(cfg)
    rebuilt = MODELS.build(merged_cfg.model).eval()
    rebuilt.load_state_dict(model.state_dict())
    require_equal(_run(rebuilt.backbone, images), expected)
    text = merged_cfg.pretty_text
    # frameworks build a model from the config in its checkpoint if they get no other one
    meta = dict(read_checkpoint(checkpoint).get("meta") or {}, cfg=text)
    content = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=rebuilt.state_dict()), content)
    AtomicLocalBackend().put(content.getvalue(), out)
    config.write_text(f'"""The merged model of {out.name}."""\n\n{text}')
    return config


@torch.no_grad()
def _run(backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return tuple(backbone(images))


def require_equal(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Check that two backbones computed the same maps, up to `TOLERANCE` of the largest value.

    Raises:
        ValueError: if a map differs; the message says which one and by how much.
    """
    for i, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        if not torch.isfinite(theirs).all():
            raise ValueError(
                f"map {i} of the backbone has infinite or NaN values on random input before "
                "merging; the weights are not those of a trained network; nothing was written"
            )
        error = (ours - theirs).abs().max() / theirs.abs().max()
        # this form also rejects NaN
        if not error <= TOLERANCE:
            raise ValueError(
                f"the merged backbone is not equivalent: map {i} differs by {error:.1e} of "
                f"its largest value, where {TOLERANCE:.0e} is allowed; nothing was written"
            )

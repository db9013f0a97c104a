"""Loading of checkpoints: published ones after renaming their entries, and partial ones.

mmengine loads non-strictly: a published file whose names differ would load nothing and only log it.
Here every entry fits or nothing is loaded, except in :func:`load_pretrained`, which accepts missing
and unexpected entries and logs them.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .fit import listed, misfits, raise_problems, require_fit
from .match import (
    LoadReport,
    find_target,
    has_own_backbone,
    is_classifier,
    is_whole,
    keep_fresh,
    match_published,
    match_whole,
)
from .read import read_checkpoint, read_state_dict


def load_published(model: nn.Module, checkpoint: str | Path | Mapping) -> LoadReport:
    """Load weights with published names into a backbone, or into a model that contains one.

    The rules ``published.rename`` of the backbone translate the names. A checkpoint of a whole
    detector or segmentor, of mmdet 2, mmseg 0.x or later, is loaded into such a model completely,
    and into a backbone without its other parts. The published classifier is loaded into an
    mmpretrain classifier and dropped for other models. Checkpoints of this project load too. The
    model changes only if every entry fits.

    Args:
        model: backbone of this package, or a model with one as its attribute `backbone`.
        checkpoint: path, URL or dict, as for :func:`read_state_dict`.

    Returns:
        names of the entries that were loaded, dropped or left at their initialisation.

    Raises:
        ValueError: lists the entries that are missing, unexpected, not finite, or of another shape
            or kind.
    """
    return _load(model, checkpoint)[1]


def _load(model: nn.Module, checkpoint: str | Path | Mapping) -> tuple[nn.Module, LoadReport]:
    """Load published weights, and return the part of the model that has them and the report."""
    model = unwrap(model)
    _require_memory(model)
    entries = read_state_dict(checkpoint)
    target, backbone = find_target(model)
    if has_own_backbone(model) and not is_classifier(model) and is_whole(entries, backbone):
        target = model
        given, report = match_whole(model, entries)
    else:
        given, report = match_published(target, backbone, entries)
    target.load_state_dict(target.state_dict() | given)
    _log(target, backbone, report)
    return target, report


def _require_memory(model: nn.Module) -> None:
    """Check that a model can hold weights.

    Raises:
        ValueError: if a part of it is on the meta device.
    """
    if any(entry.is_meta for entry in model.state_dict().values()):
        raise ValueError(
            f"{type(model).__name__} is on the meta device, which holds no weights: build it "
            "without torch.device('meta'), or call its to_empty(device='cpu') first"
        )


def _log(target: nn.Module, backbone: BaseModule, report: LoadReport) -> None:
    """Log what was loaded, and by which rules; where it came from is logged in reading it."""
    rules = f"the {len(backbone.published.rename)} rules of {type(backbone).__name__}"
    print_log(f"{type(target).__name__}: {report}; renamed by {rules}", logger="current")


def load_trained(model: nn.Module, checkpoint: str | Path | Mapping) -> None:
    """Load all weights of a model: as saved in training it, or as published.

    Raises:
        ValueError: if the checkpoint does not fit, as for :func:`load_published`.
    """
    _require_memory(unwrap(model))
    unwrap(model).load_state_dict(trained_weights(model, checkpoint))


def trained_weights(
    model: nn.Module,
    checkpoint: str | Path | Mapping,
    fresh_head: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Return the state dict that :func:`load_trained` loads into a model.

    Args:
        model: any model; published names are translated if it has a backbone of this package.
        checkpoint: path, URL or dict, as for :func:`read_state_dict`.
        fresh_head: parts of the model, such as ``'roi_head'``, that keep their initialisation, to
            be trained on other classes; an empty list stands for the layers that the checkpoint has
            for another number of classes; None for nothing.

    Raises:
        ValueError: if the checkpoint does not fit, as for :func:`load_published`.
    """
    model = unwrap(model)
    entries = read_state_dict(checkpoint)
    if not has_own_backbone(model):
        return model.state_dict() | require_same_entries(model, entries, fresh_head)
    backbone = model.get_submodule("backbone")
    if is_classifier(model):
        given, report = match_published(model, backbone, entries, fresh_head)
    else:
        given, report = match_whole(model, entries, fresh_head)
    _log(model, backbone, report)
    return model.state_dict() | given


def require_same_entries(
    model: nn.Module,
    checkpoint: str | Path | Mapping,
    fresh_head: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint that has exactly the entries of the model.

    Args:
        model: any model.
        checkpoint: path, URL or dict, as for :func:`read_state_dict`.
        fresh_head: as for :func:`trained_weights`.

    Raises:
        ValueError: if the checkpoint does not fit, as for :func:`load_published`.
    """
    model = unwrap(model)
    own = model.state_dict()
    given, fresh = keep_fresh(own, read_state_dict(checkpoint), fresh_head)
    require_fit(type(model).__name__, own, given, own.keys() - given.keys() - set(fresh))
    return given


def require_resumable(model: nn.Module, checkpoint: str | Path | Mapping) -> None:
    """Check that a checkpoint fits the model, and that mmengine will not run code in it.

    Raises:
        ValueError: if the checkpoint does not fit, or holds a program in its meta data.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if isinstance(meta, Mapping) and "config" in meta:
        raise ValueError(
            "the checkpoint holds a program as meta.config, which mmengine would run on resuming: "
            "resume only checkpoints that hb train has saved"
        )
    require_same_entries(model, content)


def load_pretrained(
    module: nn.Module, checkpoint: str | Path | Mapping, prefix: str | None = None
) -> None:
    """Load the entries of a checkpoint that a module has, for ``init_cfg=dict(type='Pretrained')``.

    Some entries may be missing (an operator that the published network does not have) or
    unexpected (the classifier of a published backbone); both are logged.

    Args:
        prefix: prefix of the entries to load, removed from their names; None loads all entries.

    Raises:
        ValueError: if nothing fits, or an entry is not finite or of another shape or kind.
    """
    given = read_state_dict(checkpoint)
    if prefix is not None:
        prefix = prefix.removesuffix(".") + "."
        given = {k.removeprefix(prefix): x for k, x in given.items() if k.startswith(prefix)}
    own, network = module.state_dict(), type(module).__name__
    raise_problems(network, misfits(own, given))
    try:
        # a module may rename and resize entries while it loads
        missing, unexpected = module.load_state_dict(given, strict=False)
    except RuntimeError as error:  # PyTorch's list of mismatches, on many lines
        raise ValueError(" ".join(str(error).split())) from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    if not given or len(missing) == len(counted):
        raise ValueError(
            f"no entry of it fits {network}: expected {', '.join(counted[:3])} ..., got "
            f"{', '.join([*given][:3]) or f'none under {prefix}'} ...; type='Published' loads "
            "published weights of our backbones"
        )
    if missing or unexpected:
        print_log(
            f"{network}: {len(missing)} entries missing ({listed(missing)}), {len(unexpected)} "
            f"unexpected ({listed(unexpected)})",
            logger="current",
            level=logging.WARNING,
        )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers, of several processes, of views in tests, of a compiler."""
    for name in ("module", "_orig_mod"):
        if isinstance(inner := getattr(model, name, None), nn.Module):
            return unwrap(inner)
    return model


@WEIGHT_INITIALIZERS.register_module(name="Published")
class PublishedInit:
    """Initialiser from published weights: ``init_cfg=dict(type='Published', checkpoint=...)``."""

    def __init__(self, checkpoint: str | Path):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into `module` with :func:`load_published`."""
        target, report = _load(module, self.checkpoint)
        # keep the `init_weights` of submodules from overwriting loaded weights
        for name, part in target.named_modules():
            if isinstance(part, BaseModule) and any(
                entry.startswith(f"{name}.") for entry in report.loaded
            ):
                part.is_init = True

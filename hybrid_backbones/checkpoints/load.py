"""Loading of checkpoints: published ones after renaming their entries, and partial ones.

mmengine loads non-strictly: a published file whose names differ would load nothing and only log it.
Here every entry fits or nothing is loaded, except in :func:`load_pretrained`, which accepts missing
and unexpected entries and logs them.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..backbones.names import matches, require_settings
from .read import read_checkpoint, read_state_dict

# maximum number of names per kind of problem in an error message
MAX_LISTED = 20


class LoadReport(NamedTuple):
    """Names of the entries that were loaded, dropped or left at their initialisation."""

    loaded: list[str]  # names in the model
    dropped: list[str]  # names in the checkpoint that the model omits, by rule
    fresh: list[str]  # names in the model that keep their initialisation, by rule

    def __str__(self) -> str:
        text = f"{len(self.loaded)} entries loaded"
        for verb, names in (("dropped", self.dropped), ("left fresh", self.fresh)):
            if names:
                text += f", {len(names)} {verb} ({_list(sorted(names))})"
        return text


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def load_published(model: nn.Module, checkpoint: str | Path | Mapping) -> LoadReport:
    """Load weights with published names into a backbone, or into a model that contains one.

    The rules ``published.rename`` of the backbone translate the names. The published classifier is
    loaded into an mmpretrain classifier and dropped for other models. Checkpoints of this project's
    classifiers load too. The model changes only if every entry fits.

    Args:
        model: backbone of this package, or a model with one as its attribute `backbone`.
        checkpoint: path, URL or dict, as for :func:`read_state_dict`.

    Returns:
        names of the entries that were loaded, dropped or left at their initialisation.

    Raises:
        ValueError: lists the entries that are missing, unexpected, not finite, or of another shape
            or kind.
    """
    target, backbone = _find_target(model)
    given, report = _match_published(target, backbone, checkpoint)
    target.load_state_dict(target.state_dict() | given)
    print_log(f"{type(backbone).__name__}: {report}", logger="current")
    return report


def _find_target(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the part of a model that published weights are loaded into, and its backbone."""
    # LocFormer's detector has rules for all of its entries, not only for those of its backbone
    backbone = model if hasattr(model, "published") else getattr(model, "backbone", model)
    if not hasattr(backbone, "published"):
        raise ValueError(
            "expected a backbone of hybrid_backbones or a model around one, "
            f"got {type(model).__name__} with {type(backbone).__name__}"
        )
    return (model if _is_classifier(model) else backbone), backbone


def _match_published(
    target: nn.Module, backbone: BaseModule, checkpoint: str | Path | Mapping
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return a checkpoint's weights under the names that they have in the target, and a report."""
    own, is_classifier = target.state_dict(), target is not backbone
    given, dropped = {}, []
    published = read_state_dict(checkpoint)
    require_settings(backbone, published)
    for name, value in published.items():
        renamed = rename(name, backbone.published.rename)
        if matches(backbone.published.computed, renamed):
            dropped.append(name)
            continue
        ours = renamed
        if is_classifier and not matches(backbone.published.classifier, renamed):
            ours = f"backbone.{renamed}"
        if ours not in own and not is_classifier and backbone.is_droppable(renamed):
            dropped.append(name)
        elif ours in given:
            raise ValueError(
                f"two entries of the checkpoint become {ours} here, one of them is {name}"
            )
        else:
            given[ours] = value

    missing = own.keys() - given.keys()
    # a checkpoint has all entries of a kind or none: with only some, the others are missing
    absent = [p for p in backbone.published.fresh if not any(re.search(p, name) for name in given)]
    fresh = [name for name in missing if matches(absent, name)]
    _require_fit(type(backbone).__name__, own, given, missing.difference(fresh))
    return given, LoadReport(sorted(given), dropped, sorted(fresh))


def load_trained(model: nn.Module, checkpoint: str | Path | Mapping) -> None:
    """Load a checkpoint that was saved in training the same model, or a published classifier.

    Raises:
        ValueError: if the checkpoint does not fit, as for :func:`load_published`.
    """
    unwrap(model).load_state_dict(trained_weights(model, checkpoint))


def trained_weights(model: nn.Module, checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Return the state dict that :func:`load_trained` loads into a model.

    Raises:
        ValueError: if the checkpoint does not fit, as for :func:`load_published`.
    """
    model = unwrap(model)
    if not _is_classifier(model):
        return require_same_entries(model, checkpoint)
    given, report = _match_published(model, model.backbone, checkpoint)
    print_log(f"{type(model.backbone).__name__}: {report}", logger="current")
    return model.state_dict() | given


def require_same_entries(model: nn.Module, checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Return the weights of a checkpoint that has exactly the entries of the model.

    Raises:
        ValueError: if the checkpoint does not fit, as for :func:`load_published`.
    """
    model = unwrap(model)
    own, given = model.state_dict(), read_state_dict(checkpoint)
    _require_fit(type(model).__name__, own, given, own.keys() - given.keys())
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
            "resume only checkpoints that tools/train.py has saved"
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
    _raise_problems(network, _misfits(own, given))
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
            f"{network}: {len(missing)} entries missing ({_list(missing)}), {len(unexpected)} "
            f"unexpected ({_list(unexpected)})",
            logger="current",
            level=logging.WARNING,
        )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside a DistributedDataParallel wrapper."""
    return getattr(model, "module", model)


def _is_classifier(model: nn.Module) -> bool:
    """Return whether a model is a classifier with one of our backbones."""
    backbone = getattr(model, "backbone", None)
    return hasattr(backbone, "published") and getattr(model, "head", None) is not None


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Remove the prefix ``backbone.``, then apply (pattern, replacement) rules in turn."""
    name = name.removeprefix("backbone.")
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _require_fit(network: str, own: Mapping, given: Mapping, missing: set[str]) -> None:
    shapes = [
        f"{name}: {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & given.keys())
        if own[name].shape != given[name].shape
    ]
    problems = {
        "missing": sorted(missing),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": shapes,
        **_misfits(own, given),
    }
    _raise_problems(network, problems, ". Is it a checkpoint of this architecture and size?")


def _misfits(own: Mapping, given: Mapping) -> dict[str, list[str]]:
    """Return the entries with matching name and shape but unusable values, by kind of problem."""
    fitting = [n for n in sorted(own.keys() & given.keys()) if own[n].shape == given[n].shape]
    kinds = [
        f"{name}: {given[name].dtype} instead of {own[name].dtype}"
        for name in fitting
        if own[name].is_floating_point() and not given[name].is_floating_point()
    ]
    return {
        "of another kind": kinds,
        "NaN or infinite": [name for name in fitting if not _is_finite(given[name])],
    }


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point() or not values.numel():
        return True
    # PyTorch has no reductions of 8-bit floats
    values = values.float() if values.itemsize == 1 else values
    # many times faster than `isfinite` on every value
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


def _raise_problems(network: str, problems: Mapping[str, Sequence[str]], hint: str = "") -> None:
    found = [f"{len(names)} {kind}: {_list(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(
            f"the checkpoint does not fit {network}, nothing was loaded. " + "; ".join(found) + hint
        )


@WEIGHT_INITIALIZERS.register_module(name="Published")
class PublishedInit:
    """Initialiser from published weights: ``init_cfg=dict(type='Published', checkpoint=...)``."""

    def __init__(self, checkpoint: str | Path):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint into `module` with :func:`load_published`."""
        report = load_published(module, self.checkpoint)
        # keep the `init_weights` of submodules from overwriting loaded weights
        for name, part in _find_target(module)[0].named_modules():
            if isinstance(part, BaseModule) and any(
                entry.startswith(f"{name}.") for entry in report.loaded
            ):
                part.is_init = True

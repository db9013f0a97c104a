"""Load checkpoints: rename published entries by rules, load strictly, report.

mmengine loads non-strictly, so a published file with its own names would load nothing and only log
it. Here everything fits, or nothing is loaded.
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

from .read import read_checkpoint, read_state_dict

# names that one error message lists of each kind
MAX_LISTED = 20


class LoadReport(NamedTuple):
    """What became of each entry, by name."""

    loaded: list[str]  # names in the model
    dropped: list[str]  # names in the checkpoint that the model has no place for, by rule
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
    """Load weights with their published names into a backbone or into a model around one.

    The backbone's `rename_rules` give the names; its classifier is loaded where the model is an
    mmpretrain classifier and dropped elsewhere. Checkpoints of this project's own classifiers load
    too. The model is changed only if every entry fits.

    Args:
        model: a backbone of this package, or a model with one as its attribute `backbone`.
        checkpoint: as for :func:`read_state_dict`.

    Raises:
        ValueError: lists the entries that are missing, unexpected, of another shape or kind, or not
            finite.
    """
    # a detector may have rules for all that it has
    backbone = model if hasattr(model, "rename_rules") else getattr(model, "backbone", model)
    if not hasattr(backbone, "rename_rules"):
        raise ValueError(
            "expected a backbone of hybrid_backbones or a model around one, "
            f"got {type(model).__name__} with {type(backbone).__name__}"
        )
    target = model if _is_classifier(model) else backbone
    given, report = _match_published(target, backbone, checkpoint)
    target.load_state_dict(target.state_dict() | given)
    print_log(f"{type(backbone).__name__}: {report}", logger="current")
    return report


def _match_published(
    target: nn.Module, backbone: nn.Module, checkpoint: str | Path | Mapping
) -> tuple[dict[str, Tensor], LoadReport]:
    """Give the weights of a checkpoint the names that they have in a classifier or a backbone."""
    own, is_classifier = target.state_dict(), target is not backbone
    given, dropped = {}, []
    for name, value in read_state_dict(checkpoint).items():
        renamed = rename(name, backbone.rename_rules)
        if any(re.search(pattern, renamed) for pattern in backbone.computed_entries):
            dropped.append(name)
            continue
        ours = renamed
        if is_classifier and not renamed.startswith(backbone.classifier_parts):
            ours = f"backbone.{renamed}"
        if ours not in own and not is_classifier and backbone.is_droppable(renamed):
            dropped.append(name)
        elif ours in given:
            raise ValueError(f"two entries of the checkpoint stand for {ours}, one is {name}")
        else:
            given[ours] = value

    missing = own.keys() - given.keys()
    # of each kind all or none: a checkpoint with some of them has lost the others
    absent = [p for p in backbone.fresh_entries if not any(re.search(p, name) for name in given)]
    fresh = [name for name in missing if any(re.search(p, name) for p in absent)]
    _require_fit(type(backbone).__name__, own, given, missing.difference(fresh))
    return given, LoadReport(sorted(given), dropped, sorted(fresh))


def load_trained(model: nn.Module, checkpoint: str | Path | Mapping) -> None:
    """Load what a training of this very model has saved; for a classifier, published weights too.

    Raises:
        ValueError: as for :func:`load_published`.
    """
    _unwrap(model).load_state_dict(trained_weights(model, checkpoint))


def trained_weights(model: nn.Module, checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Return the entries of a model with the values that :func:`load_trained` loads.

    Raises:
        ValueError: as for :func:`load_published`.
    """
    model = _unwrap(model)
    if not _is_classifier(model):
        return require_same_entries(model, checkpoint)
    given, report = _match_published(model, model.backbone, checkpoint)
    print_log(f"{type(model.backbone).__name__}: {report}", logger="current")
    return model.state_dict() | given


def require_same_entries(model: nn.Module, checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """Return the weights of a checkpoint whose entries are those of the model.

    Raises:
        ValueError: as for :func:`load_published`.
    """
    model = _unwrap(model)
    own, given = model.state_dict(), read_state_dict(checkpoint)
    _require_fit(type(model).__name__, own, given, own.keys() - given.keys())
    return given


def require_resumable(model: nn.Module, checkpoint: str | Path | Mapping) -> None:
    """Check that the weights of a checkpoint fit, and that mmengine will not run a part of it.

    Raises:
        ValueError: as for :func:`load_published`, or for a program in the meta data.
    """
    is_file = isinstance(checkpoint, str | Path)
    content = read_checkpoint(checkpoint) if is_file else checkpoint
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if isinstance(meta, Mapping) and "config" in meta:
        raise ValueError(
            "the checkpoint holds a program as meta.config, which mmengine would run on resuming: "
            "only checkpoints that tools/train.py saved are resumed"
        )
    require_same_entries(model, content)


def load_pretrained(
    module: nn.Module, checkpoint: str | Path | Mapping, prefix: str | None = None
) -> None:
    """Load what a checkpoint has for a module, as ``init_cfg=dict(type='Pretrained')`` asks for.

    A part may be missing, such as an operator that the published network does not have, and a part
    unexpected, such as the classifier of a backbone; both are logged.

    Args:
        prefix: loads the entries under this prefix only, without it.

    Raises:
        ValueError: where nothing fits, and for entries of another shape or kind, or not finite.
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
    except RuntimeError as error:  # PyTorch's list of what does not fit, on many lines
        raise ValueError(" ".join(str(error).split())) from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    if not given or len(missing) == len(counted):
        raise ValueError(
            f"nothing in it fits {network}: expected {', '.join(counted[:3])} ..., got "
            f"{', '.join([*given][:3]) or f'no entry under {prefix}'} ...; type='Published' loads "
            "published weights of our backbones"
        )
    if missing or unexpected:
        print_log(
            f"{network}: {len(missing)} entries missing ({_list(missing)}), {len(unexpected)} "
            f"unexpected ({_list(unexpected)})",
            logger="current",
            level=logging.WARNING,
        )


def _unwrap(model: nn.Module) -> nn.Module:
    """Return what DistributedDataParallel has wrapped."""
    return getattr(model, "module", model)


def _is_classifier(model: nn.Module) -> bool:
    """Tell whether a model is a classifier around one of our backbones."""
    backbone = getattr(model, "backbone", None)
    return hasattr(backbone, "rename_rules") and getattr(model, "head", None) is not None


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Apply (pattern, replacement) rules in turn, after stripping our own ``backbone.``."""
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
    """List entries of the right name and shape with values that the model cannot have."""
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
    # 8 bits have no reductions
    values = values.float() if values.itemsize == 1 else values
    # many times faster than `isfinite` of each value
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


def _raise_problems(network: str, problems: Mapping[str, Sequence[str]], hint: str = "") -> None:
    found = [f"{len(names)} {kind}: {_list(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(
            f"the checkpoint does not fit {network}, nothing was loaded. " + "; ".join(found) + hint
        )


@WEIGHT_INITIALIZERS.register_module(name="Published")
class PublishedInit:
    """Initialise from a checkpoint: ``init_cfg=dict(type='Published', checkpoint=...)``."""

    def __init__(self, checkpoint: str | Path):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load into `module`, as :func:`load_published` does."""
        report = load_published(module, self.checkpoint)
        # what has been loaded must not be initialised again by a method of its own
        for name, part in module.named_modules():
            if isinstance(part, BaseModule) and any(
                entry.startswith(f"{name}.") for entry in report.loaded
            ):
                part.is_init = True

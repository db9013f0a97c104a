"""Correspondence of the entries of a checkpoint to those of a model.

A checkpoint holds a backbone, a classifier, or a whole detector or segmentor. The latter is
``backbone.`` and the published names of the backbone, and names of necks and heads that are the
same in mmdet 2 and 3, and in mmseg 0.x and 1. So one rule covers all of them: names behind
``backbone.`` are translated, all others stay.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..backbones.names import matches, require_settings
from .fit import layers_of_other_classes, listed, require_fit

PREFIX = "backbone."


class LoadReport(NamedTuple):
    """Names of the entries that were loaded, dropped or left at their initialisation."""

    loaded: list[str]  # names in the model
    dropped: list[str]  # names in the checkpoint that the model omits, by rule
    fresh: list[str]  # names in the model that keep their initialisation, by rule
    left: Sequence[str] = ()  # names in the checkpoint of a whole model, outside the backbone

    def __str__(self) -> str:
        text = f"{len(self.loaded)} entries loaded"
        for verb, names in (("dropped", self.dropped), ("left fresh", self.fresh)):
            if names:
                text += f", {len(names)} {verb} ({listed(sorted(names))})"
        if self.left:
            parts = Counter(name.partition(".")[0] for name in self.left)
            counts = ", ".join(f"{count} of {part}" for part, count in sorted(parts.items()))
            text += f", {len(self.left)} outside the backbone left ({counts})"
        return text


def find_target(model: nn.Module) -> tuple[nn.Module, BaseModule]:
    """Return the part of a model that published weights are loaded into, and its backbone.

    Raises:
        ValueError: if the model has no backbone of this package.
    """
    # LocFormer's detector has rules for all of its entries, not only for those of its backbone
    backbone = model if hasattr(model, "published") else getattr(model, "backbone", model)
    if not hasattr(backbone, "published"):
        raise ValueError(
            "expected a backbone of hybrid_backbones or a model around one, "
            f"got {type(model).__name__} with {type(backbone).__name__}"
        )
    return (model if is_classifier(model) else backbone), backbone


def is_classifier(model: nn.Module) -> bool:
    """Return whether a model is a classifier with one of our backbones."""
    return has_own_backbone(model) and getattr(model, "head", None) is not None


def has_own_backbone(model: nn.Module) -> bool:
    """Return whether a model is built around one of our backbones."""
    backbone = getattr(model, "backbone", None)
    return hasattr(backbone, "published") and not hasattr(model, "published")


def is_whole(names: Iterable[str], backbone: BaseModule) -> bool:
    """Return whether a checkpoint with these names holds a whole detector or segmentor."""
    names = list(names)
    return any(name.startswith(PREFIX) for name in names) and any(
        not name.startswith(PREFIX) and not matches(backbone.published.classifier, name)
        for name in names
    )


def match_published(
    target: nn.Module,
    backbone: BaseModule,
    entries: Mapping[str, Tensor],
    fresh_head: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return published weights under their names in a backbone or a classifier, and a report.

    Args:
        target: classifier, or the backbone itself.
        backbone: backbone in it.
        entries: checkpoint of a backbone or a classifier; if the target is a backbone, also of a
            whole model, whose other parts are left.
        fresh_head: as for :func:`match_whole`.

    Raises:
        ValueError: lists the entries that do not fit.
    """
    own, is_inside = target.state_dict(), target is not backbone
    # the rules of LocFormer are for all of its entries, not only for those of its backbone
    is_backbone = not is_inside and not hasattr(backbone, "backbone")
    is_of_more = is_backbone and is_whole(entries, backbone)
    require_settings(backbone, entries)
    given: dict[str, Tensor] = {}
    dropped, left = [], []
    for name, value in entries.items():
        renamed = rename(name, backbone.published.rename)
        ours = renamed
        if is_inside and not matches(backbone.published.classifier, renamed):
            ours = PREFIX + renamed
        if matches(backbone.published.computed, renamed):
            dropped.append(name)
        elif is_of_more and not name.startswith(PREFIX) and ours not in own:
            left.append(name)
        elif ours not in own and not is_inside and backbone.is_droppable(renamed):
            dropped.append(name)
        else:
            is_flat = matches(backbone.published.flattened, renamed)
            _put(given, ours, name, value.flatten() if is_flat else value)

    given, anew = keep_fresh(own, given, fresh_head)
    missing = own.keys() - given.keys()
    # a checkpoint has all entries of a kind or none: with only some, the others are missing
    absent = [p for p in backbone.published.fresh if not any(re.search(p, name) for name in given)]
    fresh = [*anew, *(name for name in missing if matches(absent, name))]
    require_fit(type(backbone).__name__, own, given, missing.difference(fresh))
    return given, LoadReport(sorted(given), dropped, sorted(fresh), left)


def match_whole(
    model: nn.Module, entries: Mapping[str, Tensor], fresh_head: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return the weights of a whole detector or segmentor under their names here, and a report.

    Args:
        model: detector or segmentor around a backbone of this package.
        entries: checkpoint under published names or ours.
        fresh_head: parts of the model, such as ``'roi_head'``, that keep their initialisation;
            an empty list stands for the layers that are for other numbers of classes; None for
            nothing.

    Raises:
        ValueError: lists the entries that do not fit.
    """
    own = model.state_dict()
    backbone: BaseModule = model.get_submodule("backbone")
    require_settings(backbone, [n.removeprefix(PREFIX) for n in entries if n.startswith(PREFIX)])
    is_ours = entries.keys() <= own.keys()
    given: dict[str, Tensor] = {}
    dropped = []
    for name, value in entries.items():
        if is_ours or not name.startswith(PREFIX):
            given[name] = value
            continue
        renamed = rename(name, backbone.published.rename)
        ours = PREFIX + renamed
        is_left_out = ours not in own and backbone.is_droppable(renamed)
        if is_left_out or matches(backbone.published.computed, renamed):
            dropped.append(name)
        else:
            _put(given, ours, name, value)
    if not is_ours and not is_whole(entries, backbone):
        raise ValueError(
            f"the checkpoint holds no whole {type(model).__name__}, as it has no entries of heads "
            "behind those of a backbone: for the backbone alone, set model.backbone.init_cfg="
            "dict(type='Published', checkpoint=FILE)"
        )
    given, fresh = keep_fresh(own, given, fresh_head)
    require_fit(type(model).__name__, own, given, own.keys() - given.keys() - set(fresh))
    return given, LoadReport(sorted(given), dropped, fresh)


def keep_fresh(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], fresh_head: Sequence[str] | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Remove the given entries of heads that are trained anew.

    Args:
        own: entries of the model.
        given: entries of the checkpoint, under the model's names.
        fresh_head: as for :func:`match_whole`.

    Returns:
        entries that are left, and names of those of the model that keep their initialisation.

    Raises:
        ValueError: if the model has no such part, or none has to be trained anew.
    """
    if fresh_head is None:
        return dict(given), []
    heads = dict.fromkeys(n.partition(".")[0] for n in own if not n.startswith(PREFIX))
    for part in fresh_head:
        if part.partition(".")[0] not in heads or not any(_is_in(name, part) for name in own):
            raise ValueError(f"--fresh-head: no head {part!r}, expected some of {', '.join(heads)}")
    parts = fresh_head or layers_of_other_classes(own, given)
    if not parts:
        raise ValueError(
            "--fresh-head: the heads are for as many classes in the checkpoint as in the config: "
            f"leave it out to load them, or name what to train anew, of {', '.join(heads)}"
        )
    kept = {name: x for name, x in given.items() if not any(_is_in(name, p) for p in parts)}
    return kept, sorted(name for name in own if any(_is_in(name, p) for p in parts))


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Remove the prefix ``backbone.``, then apply (pattern, replacement) rules in turn."""
    name = name.removeprefix(PREFIX)
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _put(given: dict[str, Tensor], ours: str, name: str, value: Tensor) -> None:
    if ours in given:
        raise ValueError(f"two entries of the checkpoint become {ours} here, one of them is {name}")
    given[ours] = value


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")

"""Backbones by name, for code of any framework: plain modules, without registries and configs."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from .backbones import (
    ACmixResNet,
    ACmixSwin,
    BiFormer,
    HierarchicalBackbone,
    MixFormer,
    SwiftFormer,
    UniFormer,
    UniFormerLight,
    XVolutionResNet,
    acmix_swin,
    biformer,
    mixformer,
    swiftformer,
    uniformer,
    uniformer_light,
)
from .backbones.base import StagedNetwork
from .checkpoints import load_published
from .suggestions import did_you_mean

# what the names begin with, the network, and its argument and values that they end with
FAMILIES: tuple[tuple[str, type[HierarchicalBackbone], str, Iterable[Any]], ...] = (
    ("acmix_resnet", ACmixResNet, "depth", ACmixResNet.depths),
    ("acmix_swin_", ACmixSwin, "arch", acmix_swin.VARIANTS),
    ("biformer_", BiFormer, "arch", biformer.VARIANTS),
    ("mixformer_", MixFormer, "arch", mixformer.VARIANTS),
    ("swiftformer_", SwiftFormer, "arch", swiftformer.VARIANTS),
    ("uniformer_", UniFormer, "arch", uniformer.VARIANTS),
    ("uniformer_", UniFormerLight, "arch", uniformer_light.VARIANTS),
    ("xvolution_resnet", XVolutionResNet, "depth", XVolutionResNet.depths),
)
BACKBONES = {
    f"{prefix}{size}": partial(network, **{argument: size})
    for prefix, network, argument, sizes in FAMILIES
    for size in sizes
}
# arguments of the hosts that say which weights to load
FOR_CONFIGS = {"init_cfg", "pretrained"}


def list_backbones() -> list[str]:
    """Return the names that :func:`create_backbone` takes: networks with their published sizes."""
    return list(BACKBONES)


def _settings_of(network: Any) -> set[str]:
    """Return the names of the arguments of a network, and of those that it passes to its bases."""
    bases = [base for base in network.__mro__[1:] if issubclass(base, StagedNetwork)]
    keywords = [
        parameter
        for base in bases
        for parameter in signature(base).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY
    ]
    parameters = [*signature(network).parameters.values(), *keywords]
    return {one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD}


def create_backbone(
    name: str,
    *,
    checkpoint: str | Path | Mapping[str, Any] | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    **settings: Any,
) -> HierarchicalBackbone:
    """Build a backbone, an `nn.Module` from images ``(B, 3, H, W)`` to a tuple of feature maps.

    The numbers of channels of the maps are `out_channels`, and their strides `strides`.

    Args:
        name: one of :func:`list_backbones`.
        checkpoint: published weights: path, address, name such as ``'uniformer_small_in1k'``, or
            state dict; see :func:`hybrid_backbones.checkpoints.load_published`. None keeps the
            published initialisation.
        out_indices: ascending indices, from 0 to 3, of the stages whose maps are returned; their
            strides are 4, 8, 16 and 32.
        **settings: further arguments of the network, such as ``num_windows=16`` of BiFormer.

    Raises:
        TypeError: if the network has no argument of a name in `settings`.
        ValueError: if there is no such backbone, `settings` sets its size or weights again, or the
            checkpoint does not fit completely.
    """
    if not isinstance(name, str) or name not in BACKBONES:
        advice = did_you_mean(str(name), BACKBONES) or "; list_backbones() has them all"
        raise ValueError(f"there is no backbone {name!r}{advice}")
    build = BACKBONES[name]
    if again := settings.keys() & build.keywords:
        raise ValueError(f"{name!r} says {', '.join(again)} already: choose another name instead")
    if given := sorted(settings.keys() & FOR_CONFIGS):
        raise ValueError(f"{given[0]} is for configs, and loads nothing here: give checkpoint=...")
    known = _settings_of(build.func) - {*build.keywords, *FOR_CONFIGS}
    if unknown := [setting for setting in settings if setting not in known]:
        advice = did_you_mean(unknown[0], known) or f": it takes {', '.join(sorted(known))}"
        raise TypeError(f"backbone {name!r} has no argument {unknown[0]!r}{advice}")
    backbone = build(out_indices=out_indices, **settings)
    if checkpoint is not None:
        load_published(backbone, checkpoint)
    return backbone

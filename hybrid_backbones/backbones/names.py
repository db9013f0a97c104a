"""Relation of the entry names of published checkpoints to those of our networks."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# from Swin's names, which the networks derived from it share
SWIN_RULES = (
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d)\.blocks\.", r"stages.\1."),
    *((rf"^layers\.{i}\.downsample\.", f"stages.{i + 1}.downsample.") for i in range(3)),
    (r"^norm\.", "final_norm."),
    (r"^head\.(?=weight|bias)", "head.fc."),
)
# entries of Swin's index tables and masks, which are computed here
SWIN_COMPUTED = (r"\.relative_position_index$", r"\.attn_mask$")


class PublishedNames(NamedTuple):
    """Rules that relate the entry names of a published network to ours, for loading.

    All fields but `rename` and `settings` hold patterns of renamed entries, for `re.search`.
    """

    # (pattern, replacement) pairs from published names to ours, applied in turn by `re.sub`
    rename: Sequence[tuple[str, str]] = ()
    # index tables and masks, which are computed here
    computed: Sequence[str] = ()
    # entries that no published classifier has, which keep their initialisation
    fresh: Sequence[str] = (r"^norms\.",)
    # entries of an ImageClassifier outside its backbone
    classifier: Sequence[str] = (r"^(head|neck)\.",)
    # entries that the published network stores and never uses
    unused: Sequence[str] = ()
    # factors per channel that are published with axes of length 1, such as (1, C, 1, 1)
    flattened: Sequence[str] = ()
    # (pattern of published names, argument of the network, its value) where the names tell which
    # setting the weights were trained with
    settings: Sequence[tuple[str, str, Any]] = ()


def matches(patterns: Sequence[str], entry: str) -> bool:
    """Return whether one of the patterns is found in the name of an entry."""
    return any(re.search(pattern, entry) for pattern in patterns)


def require_settings(network: Any, names: Iterable[str]) -> None:
    """Check that a network has the settings that the names of published weights tell.

    Raises:
        ValueError: names the setting that such weights need.
    """
    names = list(names)
    for pattern, argument, value in network.published.settings:
        if getattr(network, argument) != value and any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"weights with these names need {argument}={value}, and would give wrong results "
                f"with {argument}={getattr(network, argument)}: set model.backbone.{argument}="
                f"{value} in the config"
            )

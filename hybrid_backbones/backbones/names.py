"""Relation of the entry names of published checkpoints to those of our networks."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class PublishedNames(NamedTuple):
    """What loading needs to know about the entry names of a published network.

    All fields but `rename` hold patterns of renamed entries, for `re.search`.
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


def matches(patterns: Sequence[str], entry: str) -> bool:
    """Return whether one of the patterns is found in the name of an entry."""
    return any(re.search(pattern, entry) for pattern in patterns)

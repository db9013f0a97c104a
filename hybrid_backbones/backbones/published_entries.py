"""Rules that map the entries of published checkpoints to those of a network."""

import re
from collections.abc import Sequence
from typing import ClassVar

from mmengine.model import BaseModule


class PublishedEntries(BaseModule):
    """Base class of networks that load checkpoints with the authors' entry names."""

    # (pattern, replacement) pairs from published entry names to ours, applied in turn by `re.sub`
    rename_rules: ClassVar[Sequence[tuple[str, str]]] = ()
    # prefixes of the entries of an ImageClassifier outside its backbone
    classifier_parts: ClassVar[tuple[str, ...]] = ()
    # patterns of published entries with index tables or masks, which are computed here
    computed_entries: ClassVar[Sequence[str]] = ()
    # patterns of entries that no published classifier has, which keep their initialisation
    fresh_entries: ClassVar[Sequence[str]] = ()
    # patterns of renamed entries that the published network stores and never uses
    unused_entries: ClassVar[Sequence[str]] = ()

    def is_droppable(self, entry: str) -> bool:
        """Return whether a renamed published entry belongs to a part that this model omits."""
        return any(re.search(pattern, entry) for pattern in self.unused_entries)

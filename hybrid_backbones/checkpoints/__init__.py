"""Checkpoints: safe reading, without running code, and strict loading of published names."""

from .guard import guard_loads
from .load import (
    PublishedInit,
    load_published,
    load_trained,
    require_resumable,
    require_same_entries,
    trained_weights,
    unwrap,
)
from .match import LoadReport, rename
from .published import PUBLISHED, PublishedCheckpoint
from .read import STATE_DICT_KEYS, dataset_meta, read_checkpoint, read_state_dict

__all__ = [
    "PUBLISHED",
    "STATE_DICT_KEYS",
    "LoadReport",
    "PublishedCheckpoint",
    "PublishedInit",
    "dataset_meta",
    "guard_loads",
    "load_published",
    "load_trained",
    "read_checkpoint",
    "read_state_dict",
    "rename",
    "require_resumable",
    "require_same_entries",
    "trained_weights",
    "unwrap",
]

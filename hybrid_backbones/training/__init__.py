"""Training: launch, hooks, mixed precision, compilation, saving and seeding."""

from ..datasets import loading
from . import curves, mixed_precision, progress, saving, seeding, sharding

__all__ = ["curves", "loading", "mixed_precision", "progress", "saving", "seeding", "sharding"]

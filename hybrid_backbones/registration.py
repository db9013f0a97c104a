"""Modules that need a host are imported when the host first looks for something like them.

Each host is large, and few programs use all of them: importing this package imports none.
"""

from contextlib import suppress
from importlib import import_module

# by host and registry: the modules that have more for it
MODULES = {
    ("mmdet", "DATASETS"): ("datasets.coco", "locformer.data"),
    ("mmdet", "TRANSFORMS"): ("locformer.data",),
    ("mmdet", "METRICS"): ("locformer.metric",),
    ("mmdet", "MODELS"): ("locformer",),
    ("mmseg", "DATASETS"): ("datasets.segmentation",),
    ("mmseg", "TRANSFORMS"): ("datasets.segmentation",),
    ("mmpretrain", "MODELS"): ("heads",),
    ("mmpretrain", "DATA_SAMPLERS"): ("training.repeated_augmentation",),
}


def register_with_hosts() -> None:
    """Add our modules to those that the registries of the installed hosts import."""
    for (host, name), modules in MODULES.items():
        # a host that is missing or broken says so where it is used
        with suppress(Exception):
            registry = getattr(import_module(f"{host}.registry"), name)
            registry._locations.extend(f"{__package__}.{module}" for module in modules)
            # also where it has been searched before
            registry._imported = False

"""Modules that need a host are imported when the host first looks for something like them.

Each host is large, and few programs use all of them: importing this package imports none.
"""

from contextlib import suppress
from importlib import import_module

# by host and registry: the modules that have more for it
MODULES = {
    ("mmdet", "DATASETS"): ("datasets.coco", "datasets.sketches"),
    ("mmdet", "TRANSFORMS"): ("datasets.sketches",),
    ("mmdet", "METRICS"): ("datasets.sketch_metric",),
    ("mmdet", "MODELS"): ("detectors",),
    ("mmpretrain", "MODELS"): ("classification",),
    ("mmpretrain", "DATA_SAMPLERS"): ("datasets.repeated",),
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

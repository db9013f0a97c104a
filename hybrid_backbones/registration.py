"""Registration of modules that need mmdet, mmseg or mmpretrain, imported on first use.

Each of these libraries is large and few programs use all, so importing this package imports none.
"""

from contextlib import suppress
from importlib import import_module

# modules to import, by library and registry
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
    """Add our modules to the import locations of the installed libraries' registries."""
    for (host, name), modules in MODULES.items():
        # a missing or broken library raises where it is used
        with suppress(Exception):
            registry = getattr(import_module(f"{host}.registry"), name)
            registry._locations.extend(f"{__package__}.{module}" for module in modules)
            # import again if the registry has already imported its locations
            registry._imported = False

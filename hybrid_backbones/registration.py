"""Registration of modules that need mmdet, mmseg or mmpretrain, imported on first use.

Each of these libraries is large and few programs use all, so importing this package imports none.
"""

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
# errors of importing a library: it is missing, or does not fit the installed versions of others
BROKEN = (ImportError, AssertionError, AttributeError, OSError)


def register_with_hosts() -> None:
    """Add our modules to the import locations of the installed libraries' registries."""
    for (host, name), modules in MODULES.items():
        try:
            registries = import_module(f"{host}.registry")
        except BROKEN:
            # a library that is missing or broken says so where it is used
            continue
        registry = getattr(registries, name)
        # private, as mmengine can set the locations of a registry only when it is created
        registry._locations.extend(f"{__package__}.{module}" for module in modules)
        # import again if the registry has already imported its locations
        registry._imported = False

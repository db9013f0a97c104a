"""Registration with mmdet, mmseg and mmpretrain, and with mmengine, which looks up their configs.

Each of these libraries is large and few programs use all, so importing this package imports none:
our modules that need one are imported on first use.
"""

from importlib import import_module, metadata

from mmengine import utils
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import hub
from mmengine.utils import package_utils

from .config_files import MIM
from .installation import install_command

# modules to import, by library and registry
MODULES = {
    ("mmdet", "DATASETS"): ("datasets.coco", "locformer.data"),
    ("mmdet", "TRANSFORMS"): ("locformer.data",),
    ("mmdet", "METRICS"): ("datasets.coco_metric", "locformer.metric"),
    ("mmdet", "MODELS"): ("locformer",),
    ("mmdet", "VISUALIZERS"): ("inference.enlarged_detections",),
    ("mmseg", "DATASETS"): ("datasets.segmentation",),
    ("mmseg", "TRANSFORMS"): ("datasets.segmentation",),
    ("mmseg", "VISUALIZERS"): ("inference.enlarged_maps",),
    ("mmpretrain", "MODELS"): ("heads",),
    ("mmpretrain", "DATA_SAMPLERS"): ("training.repeated_augmentation",),
}
# what our configs are inherited by, as `hybrid_backbones::configs/NAME.py`
PREFIX = f"{__package__}::"
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


def correct_distributions() -> None:
    """Let `_base_ = 'mmseg::...'` resolve with the maintained distributions.

    mmengine looks for the config files of a library by the name of its distribution, and knows
    upstream's names only. The maintained ones have a prefix.
    """
    for library, name in MODULE2PACKAGE.items():
        if not _is_installed(name) and _is_installed(f"onedl-{name}"):
            MODULE2PACKAGE[library] = f"onedl-{name}"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def refuse_to_install(package: str) -> None:
    """Raise an error where mmengine would run pip to install a missing library.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    if not utils.is_installed(package):
        raise ModuleNotFoundError(
            f"{package} is not installed, and nothing is installed without asking: "
            f"{install_command()}"
        )


def forbid_installations() -> None:
    """Replace mmengine's function that installs packages with `refuse_to_install`."""
    # each has the function under its own name
    for module in (package_utils, utils, hub):
        module.install_package = refuse_to_install


def share_configs() -> None:
    """Let `_base_ = 'hybrid_backbones::configs/NAME.py'` resolve, and `mmengine.hub` find configs.

    mmengine marks what is inherited from a library with the library's scope, in which its types are
    looked up. Ours has none: a config belongs to the host that it names as `default_scope`.
    """
    MODULE2PACKAGE[__package__] = __package__
    find_base = Config._get_cfg_path

    def find(path: str, filename: str) -> tuple[str, str | None]:
        if path.startswith(PREFIX):
            return str(MIM / path.removeprefix(PREFIX)), None
        return find_base(path, filename)

    # private, as mmengine has no other way to inherit without a scope
    Config._get_cfg_path = staticmethod(find)
    find_package = hub.get_installed_path

    def find_installed(package: str) -> str:
        # upstream's mmengine does not find a checkout that is installed in place
        return str(MIM.parent) if package == __package__ else find_package(package)

    hub.get_installed_path = find_installed

"""Hybrid convolution / self-attention backbones for OpenMMLab, and by name for any other code.

Importing the package registers everything: with
``custom_imports = dict(imports=['hybrid_backbones'])`` any mmdet, mmseg or mmpretrain config can
use the backbones, the operators, the training hooks, and the components for its framework.
Configs of the hosts can be inherited by `_base_ = 'mmseg::...'` with both sets of packages, and
those of this package by `_base_ = 'hybrid_backbones::configs/NAME.py'`.

Where mmcv is not installed, the backbones and the operators work, and nothing for training is
registered. Where PyTorch or mmengine is not installed, `hybrid_backbones.deploy` still runs
exported files, and nothing is registered.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .installation import install_command, missing_library
from .threads import set_threads_in_commands

if TYPE_CHECKING:
    from . import backbones, checkpoints, explain, mmcv_ops, ops, training
    from .create import create_backbone, list_backbones

__version__ = "0.1.0"
_FUNCTIONS = ("create_backbone", "list_backbones")
__all__ = [
    "backbones",
    "checkpoints",
    "create_backbone",
    "explain",
    "list_backbones",
    "mmcv_ops",
    "ops",
    "training",
]


def __getattr__(name: str) -> Any:
    """Import a function on first use, or a room whose import failed, and whose error says why."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _FUNCTIONS:
            return getattr(import_module(".create", __name__), name)
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        library = missing_library(error)
        if library is None:
            raise
        remedy = install_command("backbones" if library == "mmengine" else "openmmlab")
        message = f"{__name__}.{name} needs {library}: {remedy}"
        raise ModuleNotFoundError(message, name=error.name) from error


def _can_import(*names: str) -> bool:
    try:
        for name in names:
            import_module(name)
    except ImportError:
        return False
    return True


def _register() -> None:
    """Import and register all that configs name."""
    from . import mmcv_ops

    # must precede every import of mmdet or mmseg, which need the operators at import
    mmcv_ops.install()

    from . import backbones, checkpoints, explain, registration  # noqa: F401
    from .ops import registered  # noqa: F401

    # what a training needs of mmcv does no harm to those who use the backbones without it
    if find_spec("mmcv") is not None:
        from . import training  # noqa: F401

    registration.register_with_hosts()
    registration.correct_distributions()
    registration.share_configs()
    registration.forbid_installations()


set_threads_in_commands()
if _can_import("torch", "mmengine"):
    _register()

"""How this package and OpenMMLab's are installed, and the command that installs what is missing.

This file imports only the standard library, since doctor.py runs where nothing else does.
"""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# what OpenMMLab's libraries are imported as
LIBRARIES = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain")
# two sets of distributions of the same libraries
ONEDL: tuple[str, ...] = ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection")
ONEDL += ("onedl-mmsegmentation", "onedl-mmpretrain")
UPSTREAM = ("mmengine", "mmcv", "mmcv-lite", "mmdet", "mmsegmentation", "mmpretrain")
# files of a checkout with the libraries that an extra of the package asks for
REQUIREMENTS = {
    "openmmlab": "requirements.txt",
    "backbones": "requirements.txt",
    "upstream": "requirements/upstream.txt",
}
# a wheel has folders where a checkout has links
IN_CHECKOUT = (Path(__file__).resolve().parent / ".mim/configs").is_symlink()


def installed(distributions: tuple[str, ...]) -> list[str]:
    """Return those of the distributions that are installed."""
    present = {one.metadata["Name"] for one in metadata.distributions()}
    return [name for name in distributions if name in present]


def install_command(extra: str = "openmmlab") -> str:
    """Return the command that installs OpenMMLab's libraries, upstream's where those are in use.

    Args:
        extra: extra of this package that has them, "openmmlab" or "backbones".
    """
    if installed(UPSTREAM) and not installed(ONEDL):
        extra = "upstream"
    if IN_CHECKOUT:
        return f"pip install -r {REQUIREMENTS[extra]}"
    return f'pip install "hybrid-backbones[{extra}]"'


def missing_library(error: ModuleNotFoundError) -> str | None:
    """Return the library of OpenMMLab that an import did not find, or None for other modules."""
    name = (error.name or "").partition(".")[0]
    return name if name in LIBRARIES and find_spec(name) is None else None

"""The configs that come with the package: where they are, and their names.

``.mim`` is where OpenMMLab's libraries have their configs and tools; in a checkout it has links.
The training speeds that were measured on a GPU are there, too.
"""

import re
from pathlib import Path

from .suggestions import did_you_mean

MIM = Path(__file__).resolve().parent / ".mim"
CONFIGS = (MIM / "configs").resolve()
SPEEDS = MIM / "benchmarks/cuda_train.json"


def find_config(config: str | Path) -> Path:
    """Return the path of a config, given by its path or by its name among those of the package.

    A name has no folder, and may lack its suffix.

    Raises:
        ValueError: if there is no such config.
    """
    path = Path(config)
    if path.is_file():
        return path
    packaged = CONFIGS / f"{path.name.removesuffix('.py')}.py"
    if len(path.parts) == 1 and packaged.is_file():
        return packaged
    raise ValueError(
        f"no config at {config}: check the path, or give the name of one of {CONFIGS}"
        f"{similar_names(packaged.stem)}"
    )


def similar_names(name: str) -> str:
    """Return a suggestion of the configs of the package with the most similar names, if any."""
    return did_you_mean(name, (one.stem for one in CONFIGS.glob("*.py")))


def similar_bases(message: str) -> str:
    """Return a suggestion where a message says that there is no such config of the package."""
    missing = re.search(rf"{re.escape(str(MIM))}/(?:configs/)?(\w+)\.py", message)
    if missing is None:
        return ""
    return f"; write hybrid_backbones::configs/NAME.py{similar_names(missing[1])}"


def name_config(path: Path) -> str:
    """Return what :func:`find_config` finds a config by: its name if it is of the package."""
    return path.stem if path.resolve().parent == CONFIGS else str(path)

"""Run the scripts that mmdet, mmseg and mmpretrain bring along, with this package imported.

The hosts install their command-line tools as files under `.mim/tools`. Run on their own, they lack
mmcv's compiled operators and do not know the backbones.
"""

import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from .installation import install_command
from .suggestions import did_you_mean
from .training.seeding import BROWSING

HOSTS = ("mmdet", "mmseg", "mmpretrain")


def find_scripts(host: str) -> dict[str, Path]:
    """Return the scripts of a host by their path under its tools, without the extension.

    Raises:
        ValueError: if the host is unknown, or not installed with its tools.
    """
    if host not in HOSTS:
        raise ValueError(f"expected one of {', '.join(HOSTS)}, got {host}")
    spec = find_spec(host)
    if spec is None or spec.origin is None:
        raise ValueError(f"{host} is not installed: {install_command()}")
    tools = Path(spec.origin).parent / ".mim/tools"
    scripts = {
        path.relative_to(tools).with_suffix("").as_posix(): path for path in tools.rglob("*.py")
    }
    if not scripts:
        raise ValueError(f"{host} has no scripts in {tools}: install it as a wheel, not editable")
    return dict(sorted(scripts.items()))


def find_script(host: str, name: str) -> Path:
    """Return the script of a host with the given name, or path under the host's tools.

    Of several with the name, the one in the fewest folders is taken.

    Raises:
        ValueError: if no script has this name, or several in as few folders have.
    """
    scripts = find_scripts(host)
    name = name.removesuffix(".py")
    found = [key for key in scripts if name in (key, key.rpartition("/")[2])]
    if not found:
        names = {key.rpartition("/")[2] for key in scripts}
        raise ValueError(
            f"{host} has no script {name}{did_you_mean(name, names)}; without one, all are listed"
        )
    depth = min(key.count("/") for key in found)
    found = [key for key in found if key.count("/") == depth]
    if len(found) > 1:
        raise ValueError(f"{host} has several scripts {name}: choose {' or '.join(found)}")
    return scripts[found[0]]


def run_script(host: str, name: str, arguments: Sequence[str]) -> None:
    """Run a script of a host as the main program, as `python SCRIPT ARGUMENTS` would.

    Raises:
        ValueError: if there is no such script, it needs a package or a file that is missing, or is
            given a config with `own_data`, which it would ignore.
    """
    script = find_script(host, name)
    _require_whole_configs(host, arguments)
    sys.argv = [str(script), *arguments]
    # scripts import their neighbours
    sys.path.insert(0, str(script.parent))
    # some iterate over the training set, without its sampler
    token = BROWSING.set(True)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ImportError as error:
        raise ValueError(f"{host}'s script {name} cannot import what it needs: {error}") from error
    except FileNotFoundError as error:
        raise ValueError(f"{host}'s script {name} does not find a file: {error}") from error
    finally:
        BROWSING.reset(token)
        sys.path.remove(str(script.parent))


def _require_whole_configs(host: str, arguments: Sequence[str]) -> None:
    for config in arguments:
        is_file = config.endswith(".py") and Path(config).is_file()
        if is_file and Config.fromfile(config).get("own_data"):
            raise ValueError(
                f"{config} has own_data, which scripts of {host} do not know: give them the "
                "config that a training with it leaves in its work dir"
            )

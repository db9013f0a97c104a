"""The console command `hb`, whose first argument names the command to run."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .. import __version__
from ..installation import install_command, missing_library
from ..suggestions import did_you_mean

# name of each command, its module, which is imported when it runs, and what it does
COMMANDS = {
    "train": ("train", "train a model"),
    "test": ("test", "evaluate a checkpoint"),
    "demo": ("image_demo", "draw predictions on images"),
    "sketch-demo": ("sketch_demo", "draw the objects that match a sketch"),
    "explain": ("explain", "draw what a model looks at"),
    "export": ("export", "write a model as ONNX or a program of torch.export"),
    "reparameterize": ("reparameterize", "merge the branches of X-volutions"),
    "weights": ("weights", "list, download, verify and convert published weights"),
    "reproduce": ("reproduce", "measure published results again"),
    "playground": ("playground", "serve a page to try models in the browser"),
    "benchmark": ("benchmark", "measure operators, backbones and models"),
    "leaderboard": ("leaderboard", "train and compare many configs"),
    "check-data": ("check_data", "read all data of a config, and report what is wrong with it"),
    "run": ("run", "run a script of mmdet, mmseg or mmpretrain"),
    "doctor": ("doctor", "diagnose the installation"),
}
USAGE = (
    "usage: hb COMMAND [ARGUMENTS]\n\n{}\n\n`hb COMMAND --help` lists the arguments of a command."
)


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run a command; return its exit code, None as 0.

    Args:
        arguments: name of the command and its arguments; those of the command line by default.
    """
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE.format("\n".join(f"  {key:16}{text}" for key, (_, text) in COMMANDS.items())))
        return None
    if name == "--version":
        print(f"hybrid-backbones {__version__}")
        return None
    if name not in COMMANDS:
        advice = did_you_mean(name, COMMANDS) or "; `hb --help` lists all"
        sys.stderr.write(f"hb: error: there is no command {name!r}{advice}\n")
        return 2
    # what messages call the program, and tables their command
    sys.argv = [f"hb {name}", *rest]
    try:
        command = import_command(COMMANDS[name][0])
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped by SIGINT while packages were imported\n")
        return 130
    return command.main()


def import_command(module: str) -> ModuleType:
    """Import the module of a command; exit with one line if a library of OpenMMLab is missing."""
    try:
        return import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        library = missing_library(error)
        if library is None:
            raise
        # without the folder of a script
        program = Path(sys.argv[0]).name
        sys.exit(f"error: {program} needs {library}: {install_command()}")

"""Evaluate a checkpoint.

The command is `hb test`, or `tools/test.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..training import launch
from ..training.errors import one_line_errors
from ..training.run_config import add_run_arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    parser.add_argument("config", help="config file, or name of one of the package")
    parser.add_argument("checkpoint", help="checkpoint of a training, or a published one")
    parser.add_argument("--out", metavar="FILE.pkl", help="file to write the predictions to")
    parser.add_argument("--show-dir", metavar="FOLDER", help="folder to draw the predictions in")
    parser.add_argument(
        "--tta", action="store_true", help="average the predictions over flips and scales"
    )
    add_run_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        launch.test(args)

"""Evaluate a checkpoint.

The command is `hb test`, or `tools/test.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..training import launch


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    parser.add_argument("config", help="config file, or name of one of the package")
    parser.add_argument("checkpoint", help="checkpoint of tools/train.py, or a published one")
    parser.add_argument("--out", help="write the predictions to this .pkl file")
    parser.add_argument("--show-dir", help="draw the predictions as images in this folder")
    parser.add_argument(
        "--tta", action="store_true", help="average the predictions over flips and scales"
    )
    launch.add_run_arguments(parser)
    args = parser.parse_args(arguments)
    with launch.one_line_errors(), guard_loads(run_code=args.run_code):
        launch.test(args)

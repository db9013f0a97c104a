"""Serve a page to try trained models in the browser, on this machine only.

The command is `hb playground`, or `tools/playground.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..playground.command import playground
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments
from .arguments import add_device


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Serve a page to try trained models.")
    parser.add_argument(
        "models", nargs="*", metavar="CONFIG CHECKPOINT", help="models to serve, in pairs"
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="on this machine (default: 7860)"
    )
    add_device(parser)
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        playground(args)

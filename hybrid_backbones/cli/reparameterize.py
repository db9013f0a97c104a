"""Merge the X-volutions of a trained model; write the new checkpoint, and its config beside it.

The command is `hb reparameterize`, or `tools/reparameterize.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..deploy.reparameterize import reparameterize
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments, read_config


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Merge the X-volutions of a trained model.")
    parser.add_argument("config", help="config of the model, a file or its name")
    parser.add_argument("checkpoint", help="checkpoint of a training")
    parser.add_argument("out", help="path of the new .pth file; its config is written beside it")
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        config = reparameterize(read_config(args), args.checkpoint, args.out)
        print(f"saved to {args.out}; its config is {config}")

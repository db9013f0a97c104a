"""Train a model.

The command is `hb train`, or `tools/train.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..training import launch
from ..training.batch_size import parse_batch_size
from ..training.errors import one_line_errors
from ..training.run_config import add_run_arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Train a model.")
    parser.add_argument("config", help="config file, or name of one of the package")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from the last checkpoint of the work dir, or from the one given",
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="start from the published weights that the config names; default: from scratch",
    )
    parser.add_argument(
        "--fresh-head",
        nargs="*",
        metavar="PART",
        help="do not load these parts of load_from, but train them anew; default: the layers that "
        "it has for another number of classes",
    )
    parser.add_argument(
        "--amp",
        nargs="?",
        const="auto",
        choices=["auto", "bf16", "fp16"],
        help="mixed precision; default: fp16 on a GPU, bf16 on a CPU (where fp16 is slow)",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the total batch size",
    )
    parser.add_argument(
        "--batch-size",
        type=parse_batch_size,
        metavar="NUMBER",
        help="images per process, or `auto` for the largest number that the GPU holds; the "
        "learning rate of a new training is scaled with it",
    )
    add_run_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        launch.train(args)

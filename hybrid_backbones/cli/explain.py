"""Draw what a trained model looks at in an image: attention, routes, gates, tokens, Grad-CAM.

The command is `hb explain`, or `tools/explain.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..explain.command import ALL, explain
from ..explain.views import VIEWS
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments, read_config
from .arguments import add_device


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Draw what a trained model looks at.")
    parser.add_argument("image", help="image file, or folder of images")
    parser.add_argument("config", help="config of the model, a file or its name")
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="of pictures (PNG, PDF) and numbers"
    )
    parser.add_argument(
        "--what", default=ALL, choices=[*VIEWS, ALL], help="what to draw (default: all)"
    )
    parser.add_argument("--layer", help="path of a module (default: the last of each stage)")
    parser.add_argument(
        "--at",
        type=int,
        nargs=2,
        metavar=("Y", "X"),
        help="pixel of the drawn image to look from (default: where the strongest result is)",
    )
    parser.add_argument(
        "--sketch",
        nargs="+",
        default=[],
        metavar="FILE",
        help="what LocFormer searches for: images, FILE.ndjson or FILE.ndjson:INDEX (from 0)",
    )
    add_device(parser)
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        explain(
            read_config(args),
            args.image,
            args.checkpoint,
            args.out,
            what=args.what,
            layer=args.layer,
            at=tuple(args.at) if args.at else None,
            sketches=args.sketch,
            device=args.device,
        )

"""Draw the objects that match a sketch in an image, and the attention of the sketch.

The command is `hb sketch-demo`, or `tools/sketch_demo.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..inference.sketch import sketch_demo
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments, read_config
from .arguments import add_drawing_arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Draw objects that match a sketch in an image.")
    parser.add_argument("image", help="image file, or folder of images")
    parser.add_argument("sketch", help="image, FILE.ndjson or FILE.ndjson:INDEX (from 0)")
    parser.add_argument("config", help="config of the model, a file or its name")
    parser.add_argument("checkpoint", help="checkpoint of the model")
    add_drawing_arguments(parser)
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        sketch_demo(
            read_config(args),
            args.image,
            args.sketch,
            args.checkpoint,
            args.out,
            device=args.device,
            score_thr=args.score_thr,
        )

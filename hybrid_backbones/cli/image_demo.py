"""Draw a trained model's predictions on an image: boxes and masks, segmentation, or class.

The command is `hb demo`, or `tools/image_demo.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..deploy.predictions import demo_file
from ..inference.demo import demo
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments, read_config
from .arguments import add_drawing_arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Draw a trained model's predictions on an image.")
    parser.add_argument("image", help="image file, or folder of images")
    parser.add_argument(
        "config",
        help="config of the model, a file or its name; or an exported file alone, which needs "
        "--dangerously-run-code-in-checkpoints if it was compiled with --aot",
    )
    parser.add_argument("checkpoint", nargs="?", help="checkpoint of the model")
    add_drawing_arguments(parser)
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    drawing = dict(device=args.device, score_thr=args.score_thr)
    with one_line_errors(), guard_loads(run_code=args.run_code):
        if args.checkpoint is None:
            if args.mini or args.cfg_options:
                parser.error("--mini and --cfg-options are for a config and its checkpoint")
            if not args.config.endswith((".onnx", ".pt2")):
                parser.error("give the checkpoint after the config, or a file of hb export alone")
            demo_file(args.config, args.image, args.out, **drawing)
        else:
            demo(read_config(args), args.image, args.checkpoint, args.out, **drawing)

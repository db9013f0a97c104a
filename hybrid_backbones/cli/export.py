"""Export a trained model to ONNX or to a program of torch.export, run it and compare it.

The command is `hb export`, or `tools/export.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..deploy.report import describe
from ..deploy.whole import export_trained
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments, read_config


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Export a trained model, and compare the file.")
    parser.add_argument("config", help="config of the model, a file or its name")
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument("out", help="file to write, .onnx or .pt2")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(224, 224),
        metavar=("H", "W"),
        help="of the images, in pixels (default: 224 224)",
    )
    sizes, types = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    sizes.add_argument("--dynamic", action="store_true", help="take any batch and size")
    sizes.add_argument("--resize", action="store_true", help="resize as the test pipeline does")
    types.add_argument("--fp16", action="store_true", help="compute in float16")
    types.add_argument("--int8", metavar="FOLDER", help="compute in 8 bits; images to calibrate")
    parser.add_argument("--aot", action="store_true", help="compile a .pt2 file by AOTInductor")
    parser.add_argument("--backbone-only", action="store_true", help="feature maps only")
    parser.add_argument("--no-postprocess", action="store_true", help="all boxes, before NMS")
    parser.add_argument("--no-fuse", action="store_true", help="keep all layers as trained")
    parser.add_argument("--no-compile", action="store_true", help="do not time torch.compile")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    in_8_bits = args.int8 is not None
    with one_line_errors(), guard_loads(run_code=args.run_code):
        report = export_trained(
            read_config(args),
            args.checkpoint,
            args.out,
            args.size,
            dynamic=args.dynamic,
            resize=args.resize,
            precision="float16" if args.fp16 else "int8" if in_8_bits else "float32",
            calibration=args.int8,
            evaluate=args.mini and in_8_bits and not args.backbone_only,
            aot=args.aot,
            backbone_only=args.backbone_only,
            postprocess=not args.no_postprocess,
            fuse=not args.no_fuse,
            time_compiled=not args.no_compile,
            force=args.force,
        )
        print(describe(report))

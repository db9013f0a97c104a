"""Export a trained model to ONNX or to a program of torch.export, run it and compare it.

Usage: python tools/export.py CONFIG CHECKPOINT OUT.onnx [--size 224 224] [--dynamic]
       [--backbone-only] [--no-fuse] [--force] [--mini] [--cfg-options KEY=VALUE ...]
       OUT may end with .pt2 for torch.export; the report is printed and written as OUT.json
"""

import argparse

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.deploy.export import describe
from hybrid_backbones.deploy.whole import export_trained
from hybrid_backbones.training import launch


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a trained model, and compare the file.")
    parser.add_argument("config", help="config file of the model")
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument("out", help="file to write, .onnx or .pt2")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"))
    parser.add_argument("--dynamic", action="store_true", help="take any batch and size")
    parser.add_argument("--backbone-only", action="store_true", help="feature maps only")
    parser.add_argument("--no-fuse", action="store_true", help="keep X-volutions as trained")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    launch.add_config_arguments(parser)
    args = parser.parse_args()
    with launch.one_line_errors(), guard_loads(run_code=args.run_code):
        report = export_trained(
            launch.read_config(args),
            args.checkpoint,
            args.out,
            args.size,
            dynamic=args.dynamic,
            backbone_only=args.backbone_only,
            fuse=not args.no_fuse,
            force=args.force,
        )
        print(describe(report))


if __name__ == "__main__":
    main()

"""Evaluate a checkpoint.

Usage: python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR] [--work-dir DIR]
       [--tta] [--compile] [--mini] [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

import argparse

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.training import launch


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    parser.add_argument("config", help="config file, see configs/")
    parser.add_argument("checkpoint", help="checkpoint of tools/train.py, or a published one")
    parser.add_argument("--out", help="write the predictions to this .pkl file")
    parser.add_argument("--show-dir", help="draw the predictions as images in this folder")
    parser.add_argument(
        "--tta", action="store_true", help="average the predictions over flips and scales"
    )
    launch.add_run_arguments(parser)
    args = parser.parse_args()
    with launch.one_line_errors(), guard_loads(run_code=args.run_code):
        launch.test(args)


if __name__ == "__main__":
    main()

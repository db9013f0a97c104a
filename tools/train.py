"""Train a model.

Usage: python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]]
       [--pretrained] [--fresh-head [PART ...]] [--amp [bf16|fp16]] [--compile] [--auto-scale-lr]
       [--mini] [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

import argparse

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.training import launch


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model.")
    parser.add_argument("config", help="config file, see configs/")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
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
    launch.add_run_arguments(parser)
    args = parser.parse_args()
    with launch.one_line_errors(), guard_loads(run_code=args.run_code):
        launch.train(args)


if __name__ == "__main__":
    main()

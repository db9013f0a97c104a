"""Arguments that several commands share, beside those of `training.run_config`."""

import argparse


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the device on which a model runs."""
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cpu)"
    )


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of commands that draw predictions: where, on which device, and which boxes."""
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="image to write, or folder (default: prediction.png, predictions)",
    )
    add_device(parser)
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="lowest score of drawn boxes (default: 0.3)",
    )

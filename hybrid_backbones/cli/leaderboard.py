"""Train and evaluate many configs, and write one page of their results, with pictures and a CSV.

The command is `hb leaderboard`, or `tools/leaderboard.py`, which has the usage.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..benchmark.launchers import LAUNCHERS
from ..benchmark.leaderboard import SLURM_GPUS, Plan, lead
from ..benchmark.settings import program
from ..config_files import SPEEDS
from ..training.cfg_options import add_cfg_options
from ..training.errors import one_line_errors


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Train and evaluate many configs.")
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="files or names")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the page and of all runs",
    )
    parser.add_argument("--mini", action="store_true", help="run on the embedded mini set")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="runs of each config (default: 1)"
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="what starts the runs (default: local)",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="of each run; on a CPU, processes (default: 1; torchrun: all / --jobs; slurm: "
        f"{SLURM_GPUS})",
    )
    parser.add_argument(
        "--sbatch",
        nargs="+",
        default=[],
        metavar="OPTION",
        help="options of sbatch without dashes, such as partition=gpu",
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="start from the published weights, where a config names them",
    )
    parser.add_argument(
        "--amp",
        nargs="?",
        const="auto",
        choices=["auto", "bf16", "fp16"],
        help="mixed precision, as of hb train",
    )
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the batch"
    )
    parser.add_argument(
        "--speeds",
        type=Path,
        nargs="*",
        default=[SPEEDS],
        metavar="FILE.json",
        help="measured training steps, for the expected cost of real runs",
    )
    add_cfg_options(parser, "settings to override in all configs", default={})
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with the arguments of the command line unless others are given."""
    args = vars(make_parser().parse_args(arguments))
    args["flags"] = {name: args.pop(name) for name in ("pretrained", "amp", "auto_scale_lr")}
    args["options"] = args.pop("cfg_options")
    with one_line_errors():
        command = shlex.join(program()), shlex.join(sys.argv[1:])
        failed = lead(Plan(**args), *command, say=partial(print, flush=True))
    return int(failed > 0)

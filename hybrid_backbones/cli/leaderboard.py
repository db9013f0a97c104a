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
from ..benchmark.leaderboard import Plan, lead
from ..benchmark.settings import program
from ..config_files import SPEEDS
from ..training.cfg_options import CfgOptions
from ..training.launch import one_line_errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with the arguments of the command line unless others are given."""
    parser = argparse.ArgumentParser(description="Train and evaluate many configs.")
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="files or names")
    parser.add_argument("--out", type=Path, required=True, help="folder of page and runs")
    parser.add_argument("--mini", action="store_true", help="run on the embedded mini set")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each config")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default="local", help="what starts the runs"
    )
    parser.add_argument("--gpus", type=int, help="of each run; processes on a CPU")
    parser.add_argument("--sbatch", nargs="+", default=[], metavar="OPTION", help="partition=gpu")
    parser.add_argument("--pretrained", action="store_true", help="where a config names weights")
    parser.add_argument("--amp", nargs="?", const="auto", choices=["auto", "bf16", "fp16"])
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
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        default={},
        metavar="KEY=VALUE",
        help="settings of all configs that are replaced",
    )
    args = vars(parser.parse_args(arguments))
    args["flags"] = {name: args.pop(name) for name in ("pretrained", "amp", "auto_scale_lr")}
    args["options"] = args.pop("cfg_options")
    with one_line_errors():
        command = shlex.join(program()), shlex.join(sys.argv[1:])
        failed = lead(Plan(**args), *command, say=partial(print, flush=True))
    return int(failed > 0)

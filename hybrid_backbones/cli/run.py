"""Run a script that mmdet, mmseg or mmpretrain brings along, with the backbones registered.

The command is `hb run`, or `tools/run.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence

from ..checkpoints import guard_loads
from ..host_scripts import HOSTS, find_scripts, run_script
from ..training.errors import one_line_errors


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Run a script that mmdet, mmseg or mmpretrain brings along."
    )
    parser.add_argument("host", help=f"library of the script: {', '.join(HOSTS)}")
    parser.add_argument("script", nargs="?", help="name of the script; all are listed without")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads():
        if args.script is None:
            print("\n".join(find_scripts(args.host)))
        else:
            run_script(args.host, args.script, args.arguments)

"""Evaluate published weights as published, and note the results in docs/reproduced.md.

The command is `hb reproduce`, or `tools/reproduce.py`, which has the usage.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..benchmark.reproduce import reproduce
from ..checkpoints import guard_loads
from ..config_files import CONFIGS
from ..training.cfg_options import add_cfg_options
from ..training.errors import one_line_errors


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Measure published results again.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="see hb weights list")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate the first N images only")
    parser.add_argument("--file", type=Path, help="file that you have, instead of a download")
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("docs/reproduced.md"),
        metavar="PAGE.md",
        help="page to add the rows to (default: %(default)s)",
    )
    parser.add_argument(
        "--work-dir",
        default="work_dirs/reproduce",
        metavar="FOLDER",
        help="of logs (default: %(default)s)",
    )
    add_cfg_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors(), guard_loads():
        for line in reproduce(
            args.names,
            configs=CONFIGS,
            page=args.page,
            work_dir=args.work_dir,
            file=args.file,
            limit=args.limit,
            options=args.cfg_options,
            dry_run=args.dry_run,
        ):
            print(line, flush=True)

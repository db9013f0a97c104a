"""Read all data of a config before a training, and report everything that is wrong with it.

The command is `hb check-data`, or `tools/check_data.py`, which has the usage.
"""

import argparse
import sys
from collections.abc import Sequence

from ..training.data_check import check_data, draw_pictures
from ..training.errors import one_line_errors
from ..training.run_config import add_config_arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Check all data of a config before a training.")
    parser.add_argument("config", help="config file, or name of one of the package")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the pictures of classes, boxes and samples after augmentation; default: "
        "work_dirs/check_data/CONFIG",
    )
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with the arguments of the command line unless others are given."""
    args = make_parser().parse_args(arguments)
    with one_line_errors():
        report = check_data(args)
    # whatever happens to the pictures, the report is there
    print(*report.lines, sep="\n", flush=True)
    with one_line_errors():
        lines = draw_pictures(report)
    for line in lines:
        print(line)
    if report.num_problems:
        sys.exit(f"error: {report.num_problems} problems, listed above")
    print("no problems")

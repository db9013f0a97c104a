"""Measure operators or backbones on this machine; print a table and save it as JSON.

Usage: python tools/benchmark.py ops|backbones [--size H W] [--batch N] [--only NAME ...]
       [--dtype float32|bfloat16|float16] [--device cpu|cuda] [--threads N] [--repeats N]
       [--out FILE.json] [--markdown]
"""

import argparse
import sys
from pathlib import Path

from hybrid_backbones.engine import launch
from hybrid_backbones.engine.benchmark import DTYPES, TABLES, Settings, describe
from hybrid_backbones.engine.tables import report


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure operators or backbones.")
    commands = parser.add_subparsers(dest="table", required=True)
    for table, (_, subjects, size) in TABLES.items():
        command = commands.add_parser(table, help=f"measure {', '.join(subjects)}")
        command.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=size)
        command.add_argument("--batch", type=int, default=1)
        command.add_argument("--dtype", choices=DTYPES, default="float32")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--threads", type=int, help="of the CPU (default: PyTorch's choice)")
        command.add_argument("--repeats", type=int, default=5, help="timed calls (default: 5)")
        command.add_argument("--only", nargs="+", choices=list(subjects), metavar="NAME")
        command.add_argument("--out", type=Path, default=f"work_dirs/benchmark/{table}.json")
        command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = vars(parser.parse_args())
    measure = TABLES[args.pop("table")][0]
    only, out, markdown = (args.pop(name) for name in ("only", "out", "markdown"))
    with launch.one_line_errors():
        settings = Settings(**{name: value for name, value in args.items() if value is not None})
        out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
        rows = measure(settings, only or ())
        report(rows, describe(settings), out, markdown=markdown)
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())

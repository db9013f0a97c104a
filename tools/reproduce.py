"""Evaluate published weights as published, and note the results in docs/reproduced.md.

Usage: python tools/reproduce.py NAME ... [--dry-run] [--limit N] [--file FILE] [--page PAGE.md]
       [--work-dir DIR] [--cfg-options KEY=VALUE ...]
"""

import argparse
from pathlib import Path

from hybrid_backbones.benchmark.reproduce import reproduce
from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.training.cfg_options import CfgOptions
from hybrid_backbones.training.launch import one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure published results again.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="see tools/weights.py list")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate the first N images")
    parser.add_argument("--file", type=Path, help="file that you have, instead of a download")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/reproduced.md", help="page to add the rows to"
    )
    parser.add_argument("--work-dir", default="work_dirs/reproduce", help="folder for logs")
    parser.add_argument(
        "--cfg-options", nargs="+", action=CfgOptions, help="settings to override, as KEY=VALUE"
    )
    args = parser.parse_args()
    with one_line_errors(), guard_loads():
        for line in reproduce(
            args.names,
            configs=ROOT / "configs",
            page=args.page,
            work_dir=args.work_dir,
            file=args.file,
            limit=args.limit,
            options=args.cfg_options,
            dry_run=args.dry_run,
        ):
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""Write docs/inside.md: a picture of each operator, of models trained on the mini set.

Usage: python tools/inside.py [--work-dirs work_dirs] [--out docs]
"""

import argparse
import sys
from pathlib import Path

from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.explain.page import write_page
from hybrid_backbones.training.errors import one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the page of what networks look at.")
    parser.add_argument("--work-dirs", default="work_dirs", help="folder of trained models")
    parser.add_argument("--out", default=str(ROOT / "docs"), help="folder of the page")
    args = parser.parse_args()
    with one_line_errors(), guard_loads(run_code=False):
        page = write_page(ROOT / "configs", args.work_dirs, args.out)
    print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write docs/deploy.md: models of each backbone and head as ONNX files, checked and timed.

Usage: python tools/deploy_page.py [--only CONFIG ...] [--out docs]
       takes half an hour on one core; `--only imagenet_swiftformer_xs` measures one row again
"""

import argparse
import sys
from pathlib import Path

import torch

from hybrid_backbones.deploy.page import write_page
from hybrid_backbones.training.errors import one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the page of exported networks.")
    parser.add_argument("--only", nargs="+", default=[], metavar="CONFIG", help="rows to measure")
    parser.add_argument("--out", default=str(ROOT / "docs"), help="folder of the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with one_line_errors():
        page = write_page(ROOT / "configs", args.out, args.only)
    print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

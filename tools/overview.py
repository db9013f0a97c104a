"""Write the README's table of backbones, and the picture of their published accuracy.

Usage: python tools/overview.py
"""

import argparse
import re
import sys
from pathlib import Path

from hybrid_backbones.benchmark.overview import draw_accuracy, overview_table
from hybrid_backbones.training.launch import one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    argparse.ArgumentParser(description="Write the README's table and picture.").parse_args()
    with one_line_errors():
        page, picture = ROOT / "README.md", ROOT / "docs" / "overview" / "accuracy.png"
        table = re.compile(r"^\| backbone \|.*\n(\|.*\n)*", re.MULTILINE)
        text, count = table.subn(lambda _: overview_table() + "\n", page.read_text())
        if count != 1:
            raise ValueError(f"expected one table of backbones in {page}, found {count}")
        page.write_text(text)
        picture.parent.mkdir(exist_ok=True)
        draw_accuracy(picture)
    print(f"wrote {page} and {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

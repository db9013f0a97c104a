"""Write the parts of the README and the documentation that come from the code.

These are the tables of the backbones and of the commands, between comments that name them, and the
picture of the published accuracy.

Usage: python tools/overview.py
"""

import argparse
import sys
from pathlib import Path

from hybrid_backbones.benchmark.overview import draw_accuracy
from hybrid_backbones.benchmark.page_parts import fill_parts
from hybrid_backbones.cli.reference import PARTS
from hybrid_backbones.training.errors import one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    argparse.ArgumentParser(description="Write the tables and the picture.").parse_args()
    with one_line_errors():
        for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
            text = page.read_text(encoding="utf-8")
            if (filled := fill_parts(text, PARTS)) != text:
                page.write_text(filled, encoding="utf-8")
                print(f"wrote {page}")
        picture = ROOT / "docs" / "overview" / "accuracy.png"
        picture.parent.mkdir(exist_ok=True)
        draw_accuracy(picture)
    print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

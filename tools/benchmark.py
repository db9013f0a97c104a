"""Measure operators, backbones or whole models on this machine; print a table and save it as JSON.

Usage: python tools/benchmark.py ops|backbones [--size H W] [--batch N] [--only NAME ...]
       [--dtype float32|bfloat16|float16] [--device cpu|cuda] [--threads N] [--repeats N]
       [--out FILE.json] [--markdown]
       ops: [--scales N ...] for the growth with the map; backbones: [--compile]
       python tools/benchmark.py train CONFIG ... [the same options except --only]
       python tools/benchmark.py page [FOLDER] [--out FILE.md]

Speed against size is drawn beside the JSON of backbones, and of operators at several scales. `page`
writes the page of the tables saved in a folder as <device>_<name>.json.
"""

import argparse
import sys
from pathlib import Path

from hybrid_backbones.engine import launch
from hybrid_backbones.engine.benchmark.measure import benchmark_backbones, benchmark_operators
from hybrid_backbones.engine.benchmark.page import write_page
from hybrid_backbones.engine.benchmark.plots import draw
from hybrid_backbones.engine.benchmark.settings import DTYPES, Settings, describe
from hybrid_backbones.engine.benchmark.subjects import BACKBONES, OPERATORS
from hybrid_backbones.engine.benchmark.tables import report
from hybrid_backbones.engine.benchmark.training import benchmark_training

# subcommand: what it measures, the size by default (stage 1 of an 800×1344 image; ImageNet's
# published numbers; COCO's usual image, padded) and the batch by default
TABLES = {
    "ops": (benchmark_operators, (200, 336), 1),
    "backbones": (benchmark_backbones, (224, 224), 1),
    "train": (benchmark_training, (800, 1344), 2),
}
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> int:
    args = vars(_parse_args())
    table, out = args.pop("table"), args.pop("out")
    if table == "page":
        with launch.one_line_errors():
            out.write_text(write_page(args["folder"]))
        print(f"saved to {out}")
        return 0
    measure, markdown = TABLES[table][0], args.pop("markdown")
    keys = ("only", "scales", "compiled", "configs")
    own = {key: args.pop(key) for key in keys if key in args}
    with launch.one_line_errors():
        settings = Settings(**{name: value for name, value in args.items() if value is not None})
        out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
        rows = measure(settings, **own)
        report(rows, describe(settings), out, markdown=markdown)
        if table == "backbones" or len(own.get("scales", ())) > 1:
            draw(rows, out.with_suffix(".png"))
    return int(any("error" in row for row in rows))


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure operators, backbones or whole models.")
    commands = parser.add_subparsers(dest="table", required=True)
    subparsers = {}
    for table, (_, size, batch) in TABLES.items():
        command = subparsers[table] = commands.add_parser(table, help=f"measure {table}")
        command.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=size)
        command.add_argument("--batch", type=int, default=batch)
        command.add_argument("--dtype", choices=DTYPES, default="float32")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--threads", type=int, help="of the CPU (default: PyTorch's choice)")
        command.add_argument("--repeats", type=int, default=5, help="timed calls (default: 5)")
        command.add_argument("--out", type=Path, default=f"work_dirs/benchmark/{table}.json")
        command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    for table, subjects in dict(ops=OPERATORS, backbones=BACKBONES).items():
        subparsers[table].add_argument(
            "--only", nargs="+", choices=list(subjects), metavar="NAME", default=()
        )
    subparsers["ops"].add_argument(
        "--scales", type=int, nargs="+", default=(1,), help="factors of the sides of --size"
    )
    subparsers["backbones"].add_argument(
        "--compile", action="store_true", dest="compiled", help="measure compiled, too"
    )
    subparsers["train"].add_argument("configs", type=Path, nargs="+", metavar="CONFIG")
    page = commands.add_parser("page", help="write the page of saved tables")
    page.add_argument("folder", type=Path, nargs="?", default=DOCS / "benchmarks")
    page.add_argument("--out", type=Path, default=DOCS / "benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

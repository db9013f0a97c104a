"""Command line of `tools/benchmark.py`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..suggestions import did_you_mean
from .gpu import add_arguments
from .measure import benchmark_backbones, benchmark_operators
from .settings import DEVICES, DTYPES
from .subjects import BACKBONES, OPERATORS
from .training import benchmark_layers, benchmark_training

# measuring function, default size and default batch of each subcommand; the sizes are stage 1 of an
# 800×1344 image, that of published ImageNet figures, and COCO's usual image, padded
TABLES: dict[str, tuple[Callable[..., list[dict]], tuple[int, int], int]] = {
    "ops": (benchmark_operators, (200, 336), 1),
    "backbones": (benchmark_backbones, (224, 224), 1),
    "train": (benchmark_training, (800, 1344), 2),
    "layers": (benchmark_layers, (800, 1344), 2),
}
HELP = {
    "ops": "measure operators",
    "backbones": "measure backbones",
    "train": "measure a training step of whole models",
    "layers": "count what the layers of whole models keep for the backward pass",
}
DOCS = Path("docs")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    It parses `table`, `out`, and the arguments of the measuring function.
    """
    parser = argparse.ArgumentParser(description="Measure operators, backbones or whole models.")
    commands = parser.add_subparsers(dest="table", required=True)
    subparsers = {}
    for table, (_, size, batch) in TABLES.items():
        command = subparsers[table] = commands.add_parser(table, help=HELP[table])
        command.add_argument(
            "--size",
            type=int,
            nargs=2,
            metavar=("H", "W"),
            default=size,
            help=f"of maps or images, in pixels (default: {size[0]} {size[1]})",
        )
        command.add_argument(
            "--batch", type=int, default=batch, metavar="N", help=f"images (default: {batch})"
        )
        command.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
        command.add_argument("--device", choices=DEVICES, default="cpu", help="default: cpu")
        command.add_argument(
            "--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)"
        )
        if table != "layers":
            command.add_argument(
                "--repeats", type=int, default=5, metavar="N", help="timed calls (default: 5)"
            )
        _add_out(command, f"work_dirs/benchmark/{table}.json")
        command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    for table, names in dict(ops=[*OPERATORS], backbones=[*BACKBONES]).items():
        subparsers[table].add_argument(
            "--only",
            nargs="+",
            type=_one_of(names),
            metavar="NAME",
            default=(),
            help=f"of {', '.join(names)} (default: all)",
        )
    subparsers["ops"].add_argument(
        "--scales",
        type=int,
        nargs="+",
        default=(1,),
        metavar="N",
        help="factors for both sides of --size (default: 1)",
    )
    for option, mode in {"--compile": "compiled", "--graph": "graphed"}.items():
        subparsers["backbones"].add_argument(
            option,
            action="append_const",
            const=mode,
            dest="modes",
            default=["eager"],
            help=f"also measure {mode} backbones",
        )
    for table in ("train", "layers"):
        subparsers[table].add_argument(
            "configs", type=Path, nargs="+", metavar="CONFIG", help="files or names"
        )
    add_arguments(commands.add_parser("gpu", help="prove and measure everything on a GPU"))
    jobs = commands.add_parser("jobs", help="time mini trainings that share the cores of a CPU")
    jobs.add_argument("config", help="trained on the mini set, such as imagenet_swiftformer_xs")
    jobs.add_argument("--jobs", type=int, default=2, metavar="N", help="jobs at once (default: 2)")
    jobs.add_argument(
        "--threads", type=int, metavar="N", help="of each job (default: PyTorch's choice)"
    )
    jobs.add_argument("--repeats", type=int, default=1, metavar="N", help="timed runs (default: 1)")
    _add_out(jobs, "work_dirs/benchmark/jobs.json")
    page = commands.add_parser("page", help="write the Markdown page of saved tables")
    page.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=DOCS / "benchmarks",
        help="folder of the tables (default: %(default)s)",
    )
    page.add_argument(
        "--out",
        type=Path,
        default=DOCS / "benchmarks.md",
        metavar="PAGE.md",
        help="page to write (default: %(default)s)",
    )
    return parser


def _add_out(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--out",
        type=_json,
        default=Path(default),
        metavar="FILE.json",
        help="table to write (default: %(default)s)",
    )


def _json(name: str) -> Path:
    if not name.endswith(".json"):  # a plot may be saved beside it under the same name
        raise argparse.ArgumentTypeError(f"expected a file that ends in .json, got {name}")
    return Path(name)


def _one_of(names: list[str]) -> Callable[[str], str]:
    """Return an argument type that accepts only these names, and suggests similar ones."""

    def check(name: str) -> str:
        if name not in names:
            advice = did_you_mean(name, names) or f"; expected {names}"
            raise argparse.ArgumentTypeError(f"there is no {name!r}{advice}")
        return name

    return check

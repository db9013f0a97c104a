"""Tables of `hb benchmark` that are measured, or written as a page, with all packages."""

from collections.abc import Sequence
from pathlib import Path

from ..benchmark.command import TABLES, make_parser
from ..benchmark.jobs import benchmark_jobs
from ..benchmark.page import write_page
from ..benchmark.plots import draw
from ..benchmark.settings import Settings, describe
from ..benchmark.tables import report
from ..checkpoints import guard_loads
from ..config_files import find_config
from ..mini.shapes import SINGLE_SIZE
from ..training.errors import one_line_errors
from ..training.requirements import require_writable_file


def main(arguments: Sequence[str]) -> int:
    """Measure or write a table, which the first argument names."""
    args = vars(make_parser().parse_args(arguments))
    table, out = args.pop("table"), args.pop("out")
    if table == "page":
        with one_line_errors():
            text = write_page(args["folder"])
            require_writable_file(out)
            out.write_text(text)
        print(f"saved to {out}")
        return 0
    if table == "jobs":
        return run_jobs(args, out)
    measure, markdown = TABLES[table][0], args.pop("markdown")
    keys = ("only", "scales", "modes", "configs")
    own = {key: args.pop(key) for key in keys if key in args}
    with one_line_errors(), guard_loads():
        settings = Settings(**{name: value for name, value in args.items() if value is not None})
        require_writable_file(out)
        rows = measure(settings, **own)
        setting = describe(settings)
        report(rows, setting, out, markdown=markdown)
        is_plot = table == "backbones" or len(own.get("scales", ())) > 1
        if is_plot and any("error" not in row for row in rows):
            draw(rows, setting, out.with_suffix(".png"))
    return int(any("error" in row for row in rows))


def run_jobs(args: dict, out: Path) -> int:
    """Time mini trainings at once; print and save the table."""
    config, jobs = args.pop("config"), args.pop("jobs")
    with one_line_errors():
        given = {name: value for name, value in args.items() if value is not None}
        settings = Settings(SINGLE_SIZE, **given)
        if jobs < 2:
            raise ValueError(f"--jobs must be at least 2, got {jobs}")
        path = find_config(config).absolute()
        require_writable_file(out)
        rows = benchmark_jobs(settings, path, jobs)
        report(rows, describe(settings), out)
    # jobs at once may be stopped; one alone must not fail
    return int(any("error" in row for row in rows if row["jobs"] == "1"))

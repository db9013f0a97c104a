"""Measure operators, backbones or whole models on this machine; print a table and save it as JSON.

Usage: python tools/benchmark.py ops|backbones [--size H W] [--batch N] [--only NAME ...]
       [--dtype float32|bfloat16|float16] [--device cpu|cuda] [--threads N] [--repeats N]
       [--out FILE.json] [--markdown]
       ops: [--scales N ...] for several map sizes; backbones: [--compile] [--graph]
       python tools/benchmark.py train CONFIG ... [the same options except --only]
       python tools/benchmark.py gpu [--only STEP ...] [--rehearse] [--out FOLDER]
       python tools/benchmark.py page [FOLDER] [--out FILE.md]

A plot of speed against size is saved beside the JSON for backbones, and for operators at several
scales. `page` writes a Markdown page of the tables saved in a folder as <device>_<name>.json.
"""

import sys
from pathlib import Path

from hybrid_backbones.benchmark.command import TABLES, parse_args
from hybrid_backbones.benchmark.gpu import REHEARSAL, Plan, prove
from hybrid_backbones.benchmark.page import write_page
from hybrid_backbones.benchmark.plots import draw
from hybrid_backbones.benchmark.settings import Settings, describe
from hybrid_backbones.benchmark.tables import report
from hybrid_backbones.checkpoints import guard_loads
from hybrid_backbones.training import launch
from hybrid_backbones.training.requirements import require_device, require_writable_file


def main() -> int:
    args = vars(parse_args())
    table, out = args.pop("table"), args.pop("out")
    if table == "page":
        with launch.one_line_errors():
            text = write_page(args["folder"])
            require_writable_file(out)
            out.write_text(text)
        print(f"saved to {out}")
        return 0
    if table == "gpu":
        return run_proof(args["only"], out, rehearse=args["rehearse"])
    measure, markdown = TABLES[table][0], args.pop("markdown")
    keys = ("only", "scales", "modes", "configs")
    own = {key: args.pop(key) for key in keys if key in args}
    with launch.one_line_errors(), guard_loads():
        settings = Settings(**{name: value for name, value in args.items() if value is not None})
        require_writable_file(out)
        rows = measure(settings, **own)
        report(rows, describe(settings), out, markdown=markdown)
        if table == "backbones" or len(own.get("scales", ())) > 1:
            draw(rows, out.with_suffix(".png"))
    return int(any("error" in row for row in rows))


def run_proof(steps: list[str], out: Path, *, rehearse: bool) -> int:
    """Take the steps of the proof on a GPU, and say how long each took."""
    failed = 0
    with launch.one_line_errors(), guard_loads():
        plan = REHEARSAL if rehearse else Plan()
        require_device(plan.device)
        require_writable_file(out / "proof.json")
        for name, seconds, failures in prove(plan, steps, out):
            print(f"{name}: {seconds:.0f} s, {failures} failed")
            failed += failures
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

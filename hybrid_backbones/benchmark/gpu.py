"""The GPU proof: CUDA tests, errors of the kernels and all benchmarks, in one command.

The errors and the kernels need nothing but PyTorch and Triton. Each of the other steps imports what
it needs when it starts, and fails with one line where a package is missing.
"""

import argparse
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from ..config_files import CONFIGS
from ..ops.fastest import TABLE
from .accuracy import benchmark_errors
from .fastest import write_fastest
from .kernels import benchmark_kernels
from .probes import run_alone
from .rows import DEADLINE, explain_failure
from .settings import DTYPES, Settings, describe
from .tables import report

# processes of the tests, which share one GPU
MAX_WORKERS = 8
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """Sizes and subjects of a proof.

    Args:
        device: device of everything.
        repeats: number of timed calls.
        dtypes: dtypes of kernels and operators.
        odd_size: map on which errors are measured.
        stages, shrink: number of stages that kernels are measured at, and divisor of their maps.
        operators: operators that are measured as layers; none stands for all.
        size, scales: smallest map of the operators, and factors for both of its sides.
        image_size: image of backbones and detectors.
        backbones, compiled, configs: what is measured, graphed or compiled, or trained.
        row_limit, tests_limit: seconds after which a row, or all tests, are stopped and failed.
        limit: seconds after which no further step or row begins, and the last row is stopped.
    """

    device: str = "cuda"
    repeats: int = 10
    dtypes: tuple[str, ...] = DTYPES
    odd_size: tuple[int, int] = (57, 83)
    stages: int = 3
    shrink: int = 1
    operators: tuple[str, ...] = ()
    size: tuple[int, int] = (50, 84)  # of the third stage of an 800×1344 image
    scales: tuple[int, ...] = (4, 2, 1)
    image_size: tuple[int, int] = (800, 1344)
    backbones: tuple[str, ...] = (
        *("ResNet-50", "Swin-T", "ACmixResNet-50", "ACmixSwin-tiny", "XVolutionResNet-50"),
        *("BiFormer-small", "MixFormer-b4", "SwiftFormer-l1", "UniFormer-small"),
        "UniFormerLight-xxs",
    )
    compiled: tuple[str, ...] = ("ResNet-50", "ACmixResNet-50", "BiFormer-small")
    configs: tuple[str, ...] = ("maskrcnn_acmix_r50", "maskrcnn_biformer_s")
    row_limit: float = 240
    tests_limit: float = 600
    limit: float = 1200

    def settings(self, size: tuple[int, int], **others) -> Settings:
        """Return the settings of one step."""
        return Settings(
            size,
            device=self.device,
            repeats=self.repeats,
            alone=False,
            limit=self.row_limit,
            **others,
        )


# what the rehearsal takes on a CPU, where kernels run in Triton's interpreter
REHEARSAL = Plan(
    device="cpu",
    repeats=1,
    dtypes=("float32",),
    odd_size=(5, 7),
    stages=1,
    shrink=50,
    operators=("local_attention", "Conv2d"),
    size=(8, 9),
    scales=(1,),
    image_size=(64, 64),
    backbones=("MixFormer-b0",),
    compiled=(),
    configs=("maskrcnn_uniformer_xxs",),
)


class _Outcomes:
    """Plugin of pytest that counts the outcomes of the tests of each file.

    A file or folder whose tests cannot be collected counts as one failure.
    """

    def __init__(self):
        self.counts: dict[str, Counter] = {}

    def pytest_collectreport(self, report):
        if report.failed:
            self.counts.setdefault(report.nodeid, Counter())["failed"] += 1

    def pytest_runtest_logreport(self, report):
        # setup and teardown count only if they did not pass
        if report.when == "call" or report.outcome != "passed":
            file = report.nodeid.partition("::")[0]
            self.counts.setdefault(file, Counter())[report.outcome] += 1


def _run_tests(plan: Plan) -> tuple[Settings, list[dict]]:
    """Run the tests that need a GPU; one row for each file."""
    tests = CHECKOUT / "tests"
    if not tests.is_dir() or find_spec("pytest") is None:
        missing = dict(tests="all", error="it needs a checkout, with its tests, and pytest")
        return plan.settings(plan.odd_size), [missing]
    # in a process of their own, as they change settings of PyTorch by which the rest is measured
    counts, ending = run_alone(_count_outcomes, tests, limit=plan.tests_limit)
    rows: list[dict] = [
        dict(tests=file, **{name: count[name] for name in ("passed", "failed", "skipped")})
        for file, count in sorted(counts.items())
    ]
    if ending not in ("OK", "TESTS_FAILED"):
        rows.append(dict(tests="all", error=f"pytest ended with {ending}"))
    return plan.settings(plan.odd_size), rows


def _count_outcomes(tests: Path) -> tuple[dict[str, Counter], str]:
    """Run the tests that need a GPU; return their outcomes by file, and how pytest ended."""
    import pytest

    outcomes = _Outcomes()
    # the project's own options are those of xdist; each worker has a context of the GPU
    number = str(min(os.cpu_count() or 1, MAX_WORKERS))
    parallel = ["-n", number] if find_spec("xdist") else ["-o", "addopts="]
    code = pytest.main(
        ["-q", "-m", "cuda", "--tb=short", *parallel, str(tests)], plugins=[outcomes]
    )
    return outcomes.counts, pytest.ExitCode(code).name


def _measure_errors(plan: Plan) -> tuple[Settings, list[dict]]:
    settings = plan.settings(plan.odd_size)
    return settings, benchmark_errors(settings, plan.dtypes)


def _measure_kernels(plan: Plan) -> tuple[Settings, list[dict]]:
    settings = plan.settings(plan.size)
    return settings, benchmark_kernels(settings, plan.dtypes, plan.stages, plan.shrink)


def _measure_operators(plan: Plan) -> tuple[Settings, list[dict]]:
    from .measure import benchmark_operators

    settings = plan.settings(plan.size)
    return settings, [
        dict(dtype=dtype) | row
        for dtype in plan.dtypes
        for row in benchmark_operators(replace(settings, dtype=dtype), plan.operators, plan.scales)
    ]


def _measure_training(plan: Plan) -> tuple[Settings, list[dict]]:
    from ..checkpoints import guard_loads
    from .training import benchmark_training

    settings = plan.settings(plan.image_size, batch=2)
    configs = [CONFIGS / f"{name}.py" for name in plan.configs]
    with guard_loads():
        return settings, [
            dict(dtype=dtype) | row
            for dtype in ("float32", "bfloat16")
            for row in benchmark_training(replace(settings, dtype=dtype), configs)
        ]


def _measure_backbones(plan: Plan) -> tuple[Settings, list[dict]]:
    from .measure import benchmark_backbones

    settings = plan.settings(plan.image_size)
    modes = ("eager", "graphed") if plan.device == "cuda" else ("eager",)
    return settings, benchmark_backbones(settings, plan.backbones, modes)


def _measure_compiled(plan: Plan) -> tuple[Settings, list[dict]]:
    from .measure import benchmark_backbones

    settings = plan.settings(plan.image_size)
    if not plan.compiled:
        return settings, []
    return settings, benchmark_backbones(settings, plan.compiled, ("eager", "compiled"))


STEPS: dict[str, Callable[[Plan], tuple[Settings, list[dict]]]] = {
    "tests": _run_tests,
    "errors": _measure_errors,
    "kernels": _measure_kernels,
    "ops": _measure_operators,
    "train": _measure_training,
    "backbones": _measure_backbones,
    "compiled": _measure_compiled,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STEPS,
        default=[*STEPS],
        metavar="STEP",
        help=f"of {', '.join(STEPS)} (default: all)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="on the CPU, at tiny sizes, with TRITON_INTERPRET=1",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("work_dirs/benchmark/gpu"),
        metavar="FOLDER",
        help="folder of the tables (default: %(default)s)",
    )


def _take(name: str, plan: Plan) -> tuple[Settings, list[dict]]:
    """Take a step; where it fails, its only row says why."""
    try:
        return STEPS[name](plan)
    except Exception as error:  # a step that fails must not stop the others
        package = str(getattr(error, "name", None)).partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package != __package__.partition(".")[0]:
            reason = f"this step needs {package}, which is not installed"
        else:
            traceback.print_exc()
            reason = explain_failure(error)
    return plan.settings(plan.image_size), [dict(step=name, error=reason)]


def _leave_out(name: str, plan: Plan) -> tuple[Settings, list[dict]]:
    reason = f"not begun, as those before took more than {plan.limit:g} s: give --only {name}"
    return plan.settings(plan.image_size), [dict(step=name, error=reason)]


def prove(plan: Plan, steps: list[str], out: Path) -> Iterator[tuple[str, float, int]]:
    """Run the steps in order, and save the table of each in `out` as soon as it is complete.

    With that of the kernels comes a new one for operators to choose from, in place of `TABLE`, but
    for what is wrong by the table of errors in `out`.

    Yields:
        for each step its name, its duration in seconds, and the number of rows that failed.
    """
    begin = perf_counter()
    for name in steps:
        start = perf_counter()
        late = start - begin > plan.limit
        token = DEADLINE.set(begin + plan.limit)
        settings, rows = _leave_out(name, plan) if late else _take(name, plan)
        DEADLINE.reset(token)
        if rows:
            report(rows, describe(settings), out / f"{plan.device}_{name}.json")
        if name == "kernels" and "operator" in rows[0]:
            measured, errors = (out / f"{plan.device}_{table}.json" for table in (name, "errors"))
            write_fastest(measured, errors, out / TABLE.name)
        failed = sum("error" in row or row.get("failed", 0) > 0 for row in rows)
        yield name, perf_counter() - start, failed

"""Mini trainings that share the cores of a CPU: one alone, and several at once."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from ..mini.preset import MINI_ROOT, draw_mini
from ..threads import PASSIVE, POLICIES
from .rows import attempt
from .settings import Settings

# threads that wait for others soon sleep, as our commands tell them, or spin for long, or for as
# long as GNU's and LLVM's OpenMP let them by default: said here, as the commands set what is unset
WAYS = dict(
    PASSIVE=PASSIVE,
    ACTIVE=dict(OMP_WAIT_POLICY="ACTIVE"),
    default=dict(GOMP_SPINCOUNT="300000", KMP_BLOCKTIME="200"),
)
# jobs at once that take so many times as long as one alone are stopped
PATIENCE = 5


def benchmark_jobs(settings: Settings, config: Path, jobs: int) -> list[dict]:
    """Time a mini training alone and several at once, for each way in which threads may wait.

    Args:
        settings: number of threads of each job, and of timed runs.
        config: config that each job trains on the mini set.
        jobs: number of jobs at once.
    """
    rows: list[dict] = []
    alone: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        draw_mini(Path(folder) / MINI_ROOT)
        for policy, number in product(WAYS, (1, jobs)):
            patience = PATIENCE * alone[policy] if policy in alone else None
            figures = attempt(_measure, settings, config, number, policy, Path(folder), patience)
            if "seconds" in figures:
                typical = figures["seconds"]["median"]
                figures["slowdown"] = typical / alone.setdefault(policy, typical)
            rows.append(dict(config=config.stem, policy=policy, jobs=str(number)) | figures)
    return rows


def _measure(
    settings: Settings, config: Path, number: int, policy: str, folder: Path, patience: float | None
) -> dict:
    times = [
        _time(settings, config, number, policy, folder, patience) for _ in range(settings.repeats)
    ]
    return dict(seconds=dict(median=median(times), min=min(times), max=max(times)))


def _time(
    settings: Settings, config: Path, number: int, policy: str, folder: Path, patience: float | None
) -> float:
    """Return the seconds until all of some jobs, which start together, have ended."""
    inherited = {name: value for name, value in os.environ.items() if name not in POLICIES}
    variables = WAYS[policy] | dict(OMP_NUM_THREADS=str(settings.threads))
    command = [sys.executable, "-m", "hybrid_backbones.cli", "train", str(config), "--mini"]
    with TemporaryDirectory(dir=folder) as work:
        start = perf_counter()
        log = Path(work) / "log.txt"
        with log.open("w") as output:
            processes = [
                subprocess.Popen(
                    [*command, "--work-dir", f"{work}/{job}"],
                    cwd=folder,
                    env=inherited | variables,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                for job in range(number)
            ]
            try:
                for process in processes:
                    left = None if patience is None else max(0, start + patience - perf_counter())
                    if process.wait(left):
                        lines = log.read_text().splitlines() or ["it wrote nothing"]
                        raise ValueError(f"the training failed: {lines[-1]}")
            except subprocess.TimeoutExpired:
                raise ValueError(
                    f"stopped after {patience:.0f} s, {PATIENCE} times as long as one job takes"
                ) from None
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
        return perf_counter() - start

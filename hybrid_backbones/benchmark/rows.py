"""Rows of a table, measured one after the other, each apart from the others."""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from importlib.util import find_spec
from time import perf_counter

from .probes import Process, run_alone
from .settings import Settings

# reading of `perf_counter` after which no row begins, and at which the last one is stopped
DEADLINE: ContextVar[float | None] = ContextVar("DEADLINE", default=None)

_kept_process = Process()


def measure_alone(measure: Callable[..., dict], *args, settings: Settings) -> dict:
    """Measure in a separate process, until `DEADLINE`; a failure there becomes the row's `error`.

    On a CPU each row has a fresh process, because of :func:`extra_memory`. On a GPU, whose memory
    PyTorch counts itself and which takes seconds to start, the process is kept until a row fails.

    Args:
        measure: importable function of the other arguments and the settings, in this order.
        args: the other arguments.
        settings: settings of the row.
    """
    limit = settings.limit
    if (deadline := DEADLINE.get()) is not None:
        left = deadline - perf_counter()
        if left <= 0:
            return dict(error="not begun, as the time for all was over")
        limit = left if limit is None else min(left, limit)
    run = run_alone if settings.alone and settings.device == "cpu" else _kept_process.run
    try:
        row = run(attempt, measure, *args, settings, limit=limit)
    except RuntimeError as error:  # the process died, or was stopped
        row = dict(error=str(error))
    if "error" in row:
        _kept_process.stop()  # its CUDA context may be unusable
    return row


def attempt(measure: Callable[..., dict], *args) -> dict:
    """Measure; a failure becomes the row's `error`."""
    try:
        return measure(*args)
    except Exception as error:  # a row that fails must not stop the others
        return dict(error=explain_failure(error))


def explain_failure(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return str(error).partition("\n")[0] or type(error).__name__


def follow(jobs: list) -> Iterable:
    """Yield the jobs, and show the progress on the terminal where rich is installed."""
    if find_spec("rich") is None:
        return jobs
    from rich.console import Console
    from rich.progress import track

    return track(jobs, "measuring", console=Console(stderr=True), transient=True)

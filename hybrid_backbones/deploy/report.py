"""The report of an export: times beside PyTorch, and what a command prints."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..benchmark.probes import time_call


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the median time of a call."""
    return round(time_call(call, repeats=5)["median"], 2)


@torch.no_grad()
def compiled_milliseconds(model: nn.Module, inputs: tuple[Tensor, ...]) -> float | str:
    """Return the time of a model by `torch.compile`, or why it was not measured."""
    compiled = torch.compile(model, dynamic=False)
    try:
        return milliseconds(lambda: compiled(*inputs))
    except Exception as error:  # a compiler can raise anything
        # of its own faults Dynamo's message begins with the code that it compiled
        cause = type(error.__cause__ or error).__name__
        return f"not measured: torch.compile ends in {cause}"
    finally:
        torch._dynamo.reset()


def measure_times(
    model: nn.Module, inputs: tuple[Tensor, ...], run: Callable[..., Any], *, compiled: bool
) -> dict[str, float | str]:
    """Return the milliseconds of a model, of the compiled model and of its file.

    Args:
        model: model in PyTorch.
        inputs: inputs of one call.
        run: function that runs the file.
        compiled: whether the model is compiled, which takes a minute.
    """

    @torch.no_grad()
    def run_eagerly() -> None:
        model(*inputs)

    return dict(
        pytorch=milliseconds(run_eagerly),
        compiled=compiled_milliseconds(model, inputs) if compiled else "not measured",
        file=milliseconds(lambda: run(inputs)),
    )


def describe(report: dict[str, Any]) -> str:
    """Return the lines that a command prints about an export."""
    times, bounds = report["milliseconds"], report["bounds"]
    resized = report.get("preprocessing", {}).get("resize")
    takes = "any batch and size" if report["dynamic"] else f"only images of {report['size']}"
    if resized:
        takes = f"any size, resized by {', '.join(step['type'] for step in resized)}"
    compiled = times["compiled"]
    lines = [
        f"saved to {report['file']}: {report['format']}, {report['precision']}, "
        f"{report['bytes'] / 1e6:.1f} MB, {sum(report['operators'].values())} operators",
        takes,
        f"PyTorch {times['pytorch']} ms, this file {times['file']} ms, compiled "
        f"{compiled if isinstance(compiled, str) else f'{compiled} ms'}",
        *(
            f"largest error of {name}: {error:.1e} (at most {bounds[name]:.0e})"
            for name, error in report["errors"].items()
        ),
    ]
    for name, values in (report.get("accuracy") or {}).items():
        lines.append(f"{name} of the test set: {values['before']:.4g}, now {values['after']:.4g}")
    folded = [f"{n} {what.replace('_', ' ')}" for what, n in report["fused"].items() if n]
    if folded:
        lines.append(f"merged or folded: {', '.join(folded)}")
    return "\n".join([*lines, *report.get("remarks", [])])

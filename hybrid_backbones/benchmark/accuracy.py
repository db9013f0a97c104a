"""Errors of the operators that have several implementations, beside their definition in float64."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import local_attention, pixel_shift_attention
from ..ops.local_attention.api import BACKENDS as LOCAL_BACKENDS
from ..ops.pixel_shift_attention.api import BACKENDS as PIXEL_SHIFT_BACKENDS
from ..ops.routed_attention.api import BACKENDS as ROUTED_BACKENDS
from ..ops.routed_attention.api import routed_attention
from .implementations import can_run, has_gradients
from .rows import follow, measure_alone
from .settings import DTYPES, Settings
from .tables import compare

HEADS, HEAD_DIM = 4, 16
CHANNELS = HEADS * HEAD_DIM
# of routed attention: number of regions, and of regions that each of them attends to
REGIONS, ROUTES = 9, 4
# an error may be so many times that of the definition in the same dtype, and so many epsilons more
MAX_RATIO, MAX_EPSILONS = 4, 4


class Operator(NamedTuple):
    """Operator on a query, key and value of one shape."""

    apply: Callable[..., Tensor]
    backends: list[str]
    shape: Callable[[int, int], tuple[int, ...]]  # of the map's height and width


def _attend_to_regions(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    """Attend from each region to itself and to those that follow it."""
    regions = torch.arange(REGIONS, device=query.device)
    routes = (regions[:, None] + regions[:ROUTES]) % REGIONS
    return routed_attention(query, key, value, routes[None], HEADS, backend=backend)


OPERATORS = {
    "local_attention": Operator(
        partial(local_attention, kernel_size=7),
        [*LOCAL_BACKENDS],
        lambda height, width: (1, HEADS, HEAD_DIM, height, width),
    ),
    "routed_attention": Operator(
        _attend_to_regions,
        [*ROUTED_BACKENDS],
        lambda height, width: (1, REGIONS, height * width // REGIONS, CHANNELS),
    ),
    "pixel_shift_attention": Operator(
        partial(pixel_shift_attention, num_heads=HEADS),
        [*PIXEL_SHIFT_BACKENDS],
        lambda height, width: (1, CHANNELS, height, width),
    ),
}


def measure_errors(operator: str, backend: str, settings: Settings) -> dict:
    """Measure the errors of output and gradients, relative to the norm of the exact values.

    The exact values are those of the definition in float64, from the same inputs, rounded to the
    dtype of the settings. Where an implementation has no gradients, their error is None.
    """
    apply, _, shape = OPERATORS[operator]
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad_output = (
        torch.randn(shape(*settings.size), generator=generator).to(**settings.kind)
        for _ in range(4)
    )
    results = []
    differentiable = has_gradients(backend, settings.device)
    for name, dtype in ((backend, query.dtype), ("reference", torch.float64)):
        inputs = [x.to(dtype).requires_grad_(differentiable) for x in (query, key, value)]
        out = apply(*inputs, backend=name)
        gradients = differentiable and torch.autograd.grad(out, inputs, grad_output.to(dtype))
        results.append([out, *(gradients or ())])
    output_error, *gradient_errors = (
        ((actual - exact).norm() / exact.norm()).item()
        for actual, exact in zip(*results, strict=True)
    )
    if not all(map(isfinite, (output_error, *gradient_errors))):
        raise ArithmeticError(
            f"errors are not finite: {output_error} of the output, {gradient_errors} of gradients"
        )
    return dict(output_error=output_error, gradient_error=max(gradient_errors, default=None))


def benchmark_errors(settings: Settings, dtypes: Iterable[str] = DTYPES) -> list[dict]:
    """Measure the errors of all implementations in these dtypes, beside those of the definition.

    A row fails whose errors :func:`explain_wrong` refuses.
    """
    jobs = [
        (operator, dtype, backend)
        for operator, (_, backends, _) in OPERATORS.items()
        for dtype in dtypes
        for backend in backends
        if can_run(backend, settings.device)
    ]
    rows = {
        job: dict(operator=job[0], dtype=job[1], implementation=job[2])
        | measure_alone(measure_errors, job[0], job[2], settings=replace(settings, dtype=job[1]))
        for job in follow(jobs)
    }
    for (operator, dtype, _), row in rows.items():
        definition = rows[operator, dtype, "reference"]
        row["ratio"] = compare(definition, row)
        if "error" not in row and (reason := explain_wrong(row, definition)) is not None:
            row["error"] = reason
    return list(rows.values())


def explain_wrong(row: dict, definition: dict) -> str | None:
    """Return why the numbers of an implementation are wrong, or None if they are right.

    Right is an error of the output, and of the gradients, that is at most `MAX_RATIO` times that of
    the definition in the same dtype plus `MAX_EPSILONS` epsilons of the dtype.
    """
    if "error" in definition:
        return f"the definition, with which it is compared, was not measured: {definition['error']}"
    epsilon = torch.finfo(getattr(torch, row["dtype"])).eps
    for figure, name in (("output_error", "output"), ("gradient_error", "gradients")):
        error, usual = row.get(figure), definition.get(figure)
        if error is None or usual is None:
            continue
        most = MAX_RATIO * usual + MAX_EPSILONS * epsilon
        if error > most:
            return f"the error of its {name} must be at most {most:.2g}, got {error:.2g}"
    return None

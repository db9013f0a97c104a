"""Speed of the operators that have kernels, by themselves, without projections.

Each has the heads and channels of its network at the first three stages of an 800×1344 image.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import local_attention, pixel_shift_attention
from ..ops.local_attention.api import BACKENDS as LOCAL_BACKENDS
from ..ops.pixel_shift_attention.api import BACKENDS as PIXEL_SHIFT_BACKENDS
from ..ops.routed_attention.api import BACKENDS as ROUTED_BACKENDS
from ..ops.routed_attention.api import routed_attention
from .implementations import can_run, has_gradients
from .probes import extra_memory, time_call
from .rows import follow, measure_alone
from .settings import DTYPES, Settings
from .tables import compare

# heads, channels of each, height and width of ACmix's maps
MAPS = ((4, 16, 200, 336), (4, 32, 100, 168), (4, 64, 50, 84))
# channels, heads, tokens of a region and k of BiFormer, which divides a map into 16×16 regions
REGIONS = ((64, 2, 13 * 21, 1), (128, 4, 7 * 11, 4), (256, 8, 4 * 6, 16))
NUM_REGIONS = 256
# channels, height and width of X-volution's maps
PIXELS = ((64, 200, 336), (128, 100, 168), (256, 50, 84))


class Case(NamedTuple):
    """Operator at one stage, of query, key and value of one shape.

    `make` returns it for a device, as a function of the three and of the backend.
    """

    operator: str
    backends: list[str]
    size: str
    shape: tuple[int, ...]
    make: Callable[[str], Callable[..., Tensor]]


def _attend_locally(device: str) -> Callable[..., Tensor]:
    return partial(local_attention, kernel_size=7)


def _attend_by_routes(
    device: str, *, regions: int, count: int, heads: int
) -> Callable[..., Tensor]:
    routes = torch.stack([torch.randperm(regions)[:count] for _ in range(regions)])[None]
    return partial(routed_attention, routes=routes.to(device), num_heads=heads)


def _attend_to_shifts(device: str) -> Callable[..., Tensor]:
    return pixel_shift_attention


def _cases(stages: int, shrink: int) -> Iterator[Case]:
    """Yield the operators at each stage, with sizes divided for a rehearsal."""
    for heads, channels, *size in MAPS[:stages]:
        shape = (1, heads, channels, *(-(-side // shrink) for side in size))
        yield Case(
            "local_attention",
            [*LOCAL_BACKENDS],
            f"{heads} heads of {channels}, {shape[3]}×{shape[4]}",
            shape,
            _attend_locally,
        )
    for channels, heads, tokens, count in REGIONS[:stages]:
        regions, tokens = max(NUM_REGIONS // shrink, count), max(tokens // shrink, 2)
        yield Case(
            "routed_attention",
            [*ROUTED_BACKENDS],
            f"{heads} heads of {channels // heads}, {regions} regions of {tokens}, k = {count}",
            (1, regions, tokens, channels),
            partial(_attend_by_routes, regions=regions, count=count, heads=heads),
        )
    for channels, *size in PIXELS[:stages]:
        shape = (1, channels, *(-(-side // shrink) for side in size))
        yield Case(
            "pixel_shift_attention",
            [*PIXEL_SHIFT_BACKENDS],
            f"{channels} channels, {shape[2]}×{shape[3]}",
            shape,
            _attend_to_shifts,
        )


def benchmark_kernels(
    settings: Settings, dtypes: Iterable[str] = DTYPES, stages: int = 3, shrink: int = 1
) -> list[dict]:
    """Measure all implementations at all stages, beside the reference.

    Args:
        settings: device and number of timed calls; size and dtype are ignored.
        dtypes: dtypes of the maps.
        stages: number of stages.
        shrink: divisor of sizes, for a rehearsal.
    """
    jobs = [
        (case, dtype, [name for name in case.backends if can_run(name, settings.device)])
        for case in _cases(stages, shrink)
        for dtype in dtypes
    ]
    rows = []
    for case, dtype, backends in follow(jobs):
        of_dtype = replace(settings, dtype=dtype)
        figures = {
            name: measure_alone(_measure, case, name, settings=of_dtype) for name in backends
        }
        for name in backends:
            names = dict(operator=case.operator, size=case.size, dtype=dtype, implementation=name)
            ratio = compare(figures["reference"], figures[name])
            rows.append(names | figures[name] | dict(ratio=ratio))
    return rows


def _measure(case: Case, backend: str, settings: Settings) -> dict:
    torch.manual_seed(0)
    inputs = [torch.randn(case.shape, **settings.kind, requires_grad=True) for _ in range(3)]
    apply = partial(case.make(settings.device), backend=backend)
    infer = torch.no_grad()(partial(apply, *inputs))
    forward = dict(forward_ms=time_call(infer, **settings.clock))
    if not has_gradients(backend, settings.device):
        return forward
    grad_output = torch.randn_like(apply(*inputs))

    def differentiate():
        torch.autograd.grad(apply(*inputs), inputs, grad_output)

    return forward | dict(
        forward_backward_ms=time_call(differentiate, **settings.clock),
        extra_memory_mib=extra_memory(differentiate, device=settings.device),
    )

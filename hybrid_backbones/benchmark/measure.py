"""Measurement of operators and backbones, one row of a table after the other."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import cycle

import torch
from torch import Tensor, nn

from . import subjects
from .counts import count_launches, kept_bytes
from .implementations import can_run
from .probes import capture, count_macs, extra_memory, time_call
from .rows import follow, measure_alone
from .settings import Settings
from .tables import compare

# number of timed copies, and the total bytes that they cycle through, more than any cache holds
COPY_REPEATS, COPY_BYTES = 20, 2**28
# ways to run a backbone
MODES = ("eager", "compiled", "graphed")


def measure_operator(make: Callable[[Settings], tuple], settings: Settings) -> dict:
    """Measure an operator: times in ms and as multiples of a copy's, memory in MiB, counts."""
    torch.set_num_threads(settings.threads)
    function, inputs = make(settings)
    weights = list(function.parameters()) if isinstance(function, nn.Module) else []

    def train(*inputs):
        out = function(*inputs)
        torch.autograd.grad(out, [*inputs, *weights], torch.ones_like(out))

    inputs = [x.requires_grad_() for x in inputs]
    # warm up kernels and threads on a corner of the map, so that the allocator stays small
    train(*(x.detach()[..., :16, :16].clone().requires_grad_() for x in inputs))
    step, infer = partial(train, *inputs), torch.no_grad()(partial(function, *inputs))
    memory = extra_memory(step, device=settings.device)
    forward, train_step = (time_call(call, **settings.clock) for call in (infer, step))
    kept = kept_bytes(partial(function, *inputs), weights)
    moved = sum(x.nbytes for x in [*inputs, *weights, infer()])
    copy = _time_copy(moved, settings)
    return dict(
        moved_mib=moved / 2**20,
        copy_ms=copy,
        forward_ms=forward,
        forward_copies=forward["median"] / copy["min"],
        forward_backward_ms=train_step,
        forward_backward_copies=train_step["median"] / copy["min"],
        extra_memory_mib=memory,
        kept_mib=kept / 2**20,
        kept_maps=kept / inputs[0].nbytes,
        launches=count_launches(step),
    )


def _time_copy(moved: int, settings: Settings) -> dict:
    """Time the minimum for this memory traffic: a copy that reads half of it and writes half."""
    size = max(moved // 2, 1)
    pairs = [
        [torch.zeros(size, dtype=torch.uint8, device=settings.device) for _ in range(2)]
        for _ in range(-(-COPY_BYTES // (2 * size)))
    ]
    turn = cycle(pairs)

    def copy():
        source, target = next(turn)
        target.copy_(source)

    return time_call(copy, **settings.clock | dict(repeats=COPY_REPEATS))


def measure_backbone(make: Callable[[], nn.Module], mode: str, settings: Settings) -> dict:
    """Measure a backbone: parameters, MACs for one image, inference and a training step.

    Args:
        make: function that returns the backbone.
        mode: one of `MODES`; graphed backbones are replayed from a CUDA graph, for inference only.
        settings: settings of the row.
    """
    torch.set_num_threads(settings.threads)
    model = make().eval().to(**settings.kind)
    images = torch.randn(settings.batch, 3, *settings.size, **settings.kind)
    with torch.no_grad():
        model(images[..., :64, :64])  # warms up kernels, as for operators
    if mode == "compiled":
        model.compile()
    training = {} if mode == "graphed" else _measure_training(model, images, mode, settings)
    model.eval()
    infer = torch.no_grad()(partial(model, images))
    forward = time_call(capture(infer) if mode == "graphed" else infer, **settings.clock)
    return dict(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(make().eval(), (1, 3, *settings.size)),
        forward_ms=forward,
        images_per_s=1e3 * settings.batch / forward["median"],
        **training,
    )


def _measure_training(model: nn.Module, images: Tensor, mode: str, settings: Settings) -> dict:
    """Measure a training step, the memory that it takes, and what can be counted of it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step():
        outs = model(images)
        outs = [outs] if isinstance(outs, Tensor) else outs
        model.zero_grad()
        torch.autograd.backward([out.mean() for out in outs])

    def train():
        step()
        optimizer.step()

    model.train()
    # on a CPU the memory of the compiler cannot be separated from that of the model
    known = mode != "compiled" or settings.device == "cuda"
    memory = extra_memory(train, device=settings.device) if known else None
    figures = dict(train_ms=time_call(train, **settings.clock), train_memory_mib=memory)
    if mode == "eager":
        kept = kept_bytes(partial(model, images), model.parameters())
        figures |= dict(kept_mib=kept / 2**20, launches=count_launches(step))
    return figures


def benchmark_operators(
    settings: Settings, only: Iterable[str] = (), scales: Iterable[int] = (1,)
) -> list[dict]:
    """Measure all implementations of the operators in `only`, or of all operators.

    Args:
        settings: settings of all rows, with the size of the smallest map.
        only: keys of `subjects.OPERATORS`.
        scales: factors for both sides of the map; each gives rows of its own.
    """
    jobs = [
        (operator, implementation, make, scale)
        for operator in only or subjects.OPERATORS
        for implementation, make in subjects.OPERATORS[operator].items()
        for scale in scales
        if can_run(implementation, settings.device)
    ]
    rows = []
    for operator, implementation, make, scale in follow(jobs):
        height, width = (scale * side for side in settings.size)
        scaled = replace(settings, size=(height, width))
        figures = measure_alone(measure_operator, make, settings=scaled)
        names = dict(operator=operator, implementation=implementation, size=f"{height}×{width}")
        rows.append(names | figures)
    references = {
        (row["operator"], row["size"]): row for row in rows if row["implementation"] == "reference"
    }
    for row in rows:
        row["ratio"] = compare(references.get((row["operator"], row["size"]), {}), row)
    return rows


def benchmark_backbones(
    settings: Settings, only: Iterable[str] = (), modes: Iterable[str] = ("eager",)
) -> list[dict]:
    """Measure the backbones in `only`, or all backbones.

    Args:
        settings: settings of all rows.
        only: keys of `subjects.BACKBONES`.
        modes: ways to run each backbone, of `MODES`.

    Raises:
        ValueError: if backbones are to be compiled and PyTorch cannot, or to be recorded in CUDA
            graphs without CUDA.
    """
    if "compiled" in modes:
        # with what a training needs, which nothing else here does
        from ..training.compilation import require_compiler

        require_compiler(settings.device)
    if "graphed" in modes and settings.device != "cuda":
        raise ValueError(f"CUDA graphs need --device cuda, got {settings.device}")
    jobs = [(name, mode) for name in only or subjects.BACKBONES for mode in modes]
    return [
        dict(backbone=name, mode=mode)
        | measure_alone(measure_backbone, subjects.BACKBONES[name], mode, settings=settings)
        for name, mode in follow(jobs)
    ]

"""Measure operators and backbones on this machine: time, memory, parameters, products.

Every row of a table is measured in a process of its own, one after the other: what one
implementation leaves in allocators and caches cannot flatter the next.
"""

import platform
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ..backbones import (
    ACmixResNet,
    ACmixSwin,
    BiFormer,
    MixFormer,
    SwiftFormer,
    UniFormer,
    UniFormerLight,
    XVolutionResNet,
)
from ..ops import ACmix, BiLevelRoutingAttention, MergedXVolution, XVolution, local_attention
from .probes import count_macs, extra_memory, run_alone, time_call
from .tables import compare

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """What every row of one table has in common.

    Args:
        size: height and width of the maps or images, in pixels.
        batch: number of maps or images.
        dtype: one of `DTYPES`, of inputs and weights.
        device: ``'cpu'`` or ``'cuda'``.
        threads: of PyTorch on the CPU.
        repeats: number of timed calls.

    Raises:
        ValueError: for settings other than these, and for a device that is not there.
    """

    size: tuple[int, int]
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)
    repeats: int = 5

    def __post_init__(self):
        height, width = self.size
        counts = (height, width, self.batch, self.threads, self.repeats)
        if min(counts) < 1:
            raise ValueError(
                "height, width, batch, threads and repeats must be at least 1, got "
                f"{', '.join(map(str, counts))}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but PyTorch sees none; tools/doctor.py says more")

    @property
    def kind(self) -> dict[str, Any]:
        """dtype and device as keywords of PyTorch."""
        return dict(dtype=getattr(torch, self.dtype), device=self.device)


def _make_attention(backend: str, settings: Settings) -> tuple[Callable, list[Tensor]]:
    maps = [torch.randn(settings.batch, 4, 16, *settings.size, **settings.kind) for _ in range(3)]
    return partial(local_attention, kernel_size=7, backend=backend), maps


def _make_layer(layer: Callable, settings: Settings) -> tuple[Callable, list[Tensor]]:
    x = torch.randn(settings.batch, 64, *settings.size, **settings.kind)
    return layer().to(**settings.kind), [x]


# operator and its implementations; ratios are to the one called `reference`, if there is one
OPERATORS = {
    "local_attention": {
        "tiled": partial(_make_attention, "tiled"),
        "reference": partial(_make_attention, "reference"),
    },
    "ACmix": {
        "tiled": partial(_make_layer, partial(ACmix, 64, 64, attn_backend="tiled")),
        "reference": partial(_make_layer, partial(ACmix, 64, 64, attn_backend="reference")),
    },
    "BiLevelRoutingAttention": {
        backend: partial(
            _make_layer, partial(BiLevelRoutingAttention, 64, 2, 16, 1, attn_backend=backend)
        )
        for backend in ("chunked", "reference")
    },
    "XVolution": {
        backend: partial(_make_layer, partial(XVolution, 64, 64, attn_backend=backend))
        for backend in ("shifted", "reference")
    },
    "MergedXVolution": {"shifted": partial(_make_layer, partial(MergedXVolution, 64, 64))},
    "Conv2d": {"3×3": partial(_make_layer, partial(nn.Conv2d, 64, 64, 3, padding=1))},
}


def _make_resnet() -> nn.Module:
    layers = list(torchvision.models.resnet50().children())
    return nn.Sequential(*layers[:-2])  # without pooling and classifier


BACKBONES = {
    "ResNet-50": _make_resnet,
    **{f"ACmixResNet-{depth}": partial(ACmixResNet, depth) for depth in (26, 38, 50, 101)},
    **{f"ACmixSwin-{arch}": partial(ACmixSwin, arch) for arch in ("tiny", "small")},
    **{f"BiFormer-{arch}": partial(BiFormer, arch) for arch in ("tiny", "small", "base")},
    **{f"MixFormer-b{i}": partial(MixFormer, f"b{i}") for i in range(7)},
    **{f"SwiftFormer-{arch}": partial(SwiftFormer, arch) for arch in ("xs", "s", "l1", "l3")},
    **{
        f"UniFormer-{arch}": partial(UniFormer, arch, attention="hybrid")
        for arch in ("small", "base")
    },
    **{f"UniFormerLight-{arch}": partial(UniFormerLight, arch) for arch in ("xxs", "xs")},
    **{f"XVolutionResNet-{depth}": partial(XVolutionResNet, depth) for depth in (18, 34, 50, 101)},
}


def measure_operator(make: Callable[[Settings], tuple], settings: Settings) -> dict:
    """Measure an operator: times in milliseconds, extra memory of forward and backward in MiB."""
    torch.set_num_threads(settings.threads)
    function, inputs = make(settings)
    weights = list(function.parameters()) if isinstance(function, nn.Module) else []

    def train(*inputs):
        out = function(*inputs)
        torch.autograd.grad(out, [*inputs, *weights], torch.ones_like(out))

    inputs = [x.requires_grad_() for x in inputs]
    # a corner of the map loads kernels and starts threads, and leaves the allocator small
    train(*(x.detach()[..., :16, :16].clone().requires_grad_() for x in inputs))
    step, infer = partial(train, *inputs), torch.no_grad()(partial(function, *inputs))
    memory = extra_memory(step, device=settings.device)
    clock = dict(device=settings.device, repeats=settings.repeats)
    return dict(
        forward_ms=time_call(infer, **clock),
        forward_backward_ms=time_call(step, **clock),
        extra_memory_mib=memory,
    )


def measure_backbone(make: Callable[[], nn.Module], settings: Settings) -> dict:
    """Measure a backbone: parameters, products for one image, time of inference in milliseconds."""
    torch.set_num_threads(settings.threads)
    model = make().eval()
    sizes = dict(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(model, (1, 3, *settings.size)),
    )
    model.to(**settings.kind)
    images = torch.randn(settings.batch, 3, *settings.size, **settings.kind)
    infer = torch.no_grad()(partial(model, images))
    clock = dict(device=settings.device, repeats=settings.repeats)
    return dict(**sizes, forward_ms=time_call(infer, **clock))


def _measure_alone(measure: Callable[..., dict], make: Callable, settings: Settings) -> dict:
    try:
        return run_alone(measure, make, settings)
    except RuntimeError as error:  # out of memory, or an operator that a dtype does not have
        return dict(error=str(error).splitlines()[0])


def benchmark_operators(settings: Settings, only: Iterable[str] = ()) -> list[dict]:
    """Measure the implementations of the operators named in `only`, or of all."""
    jobs = [(name, *job) for name in only or OPERATORS for job in OPERATORS[name].items()]
    rows = [
        dict(operator=operator, implementation=implementation)
        | _measure_alone(measure_operator, make, settings)
        for operator, implementation, make in _track(jobs)
    ]
    references = {row["operator"]: row for row in rows if row["implementation"] == "reference"}
    return [row | dict(ratio=compare(references.get(row["operator"], {}), row)) for row in rows]


def benchmark_backbones(settings: Settings, only: Iterable[str] = ()) -> list[dict]:
    """Measure the backbones named in `only`, or all."""
    return [
        dict(backbone=name) | _measure_alone(measure_backbone, BACKBONES[name], settings)
        for name in _track(list(only or BACKBONES))
    ]


def _track(jobs: list) -> Iterable:
    return track(jobs, "measuring", console=Console(stderr=True), transient=True)


def describe(settings: Settings) -> dict[str, Any]:
    """Describe the machine and the settings, to stand beside the rows."""
    return dict(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(["python", *sys.argv]),
        torch=torch.__version__,
        device_name=_device_name(settings.device),
        **asdict(settings),
    )


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows a name
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# subcommand: what measures, what it can measure, and the size it does by default: stage 1 of an
# 800×1344 image, and the size of ImageNet's published numbers
TABLES = {
    "ops": (benchmark_operators, OPERATORS, (200, 336)),
    "backbones": (benchmark_backbones, BACKBONES, (224, 224)),
}

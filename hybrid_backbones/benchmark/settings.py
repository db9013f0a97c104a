"""What the rows of one table have in common, and the machine that measured them."""

import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """What every row of one table has in common.

    Args:
        size: height and width of the maps or images, in pixels.
        batch: number of maps or images.
        dtype: one of `DTYPES`: of inputs and weights, or in whole models, of autocast.
        device: one of `DEVICES`.
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
        if self.device not in DEVICES:
            raise ValueError(f"device must be {' or '.join(DEVICES)}, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but PyTorch sees none; tools/doctor.py says more")

    @property
    def kind(self) -> dict[str, Any]:
        """dtype and device as keywords of PyTorch."""
        return dict(dtype=getattr(torch, self.dtype), device=self.device)

    @property
    def clock(self) -> dict[str, Any]:
        """Keywords of :func:`time_call`."""
        return dict(device=self.device, repeats=self.repeats)


def describe(settings: Settings) -> dict[str, Any]:
    """Describe the machine and the settings, to stand beside the rows."""
    return dict(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join([*_allocator_settings(), "python", *sys.argv]),
        torch=torch.__version__,
        device_name=_device_name(settings.device),
        **asdict(settings),
    )


def _allocator_settings() -> list[str]:
    """Return what the environment tells the C library's allocator, which times depend on."""
    return [f"{name}={value}" for name, value in os.environ.items() if name.startswith("MALLOC_")]


def _device_name(device: str) -> str:
    if device == "cuda":
        convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        return f"{torch.cuda.get_device_name()} (float32 convolutions in {convolutions})"
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows a name
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

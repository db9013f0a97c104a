"""Settings shared by the rows of one table, and the machine that measured them."""

import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..requirements import require_device

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """Settings shared by all rows of one table.

    Args:
        size: height and width of the maps or images, in pixels.
        batch: number of maps or images.
        dtype: dtype of inputs and weights, or of autocast for whole models; one of `DTYPES`.
        device: device of inputs and weights; one of `DEVICES`.
        threads: number of CPU threads of PyTorch.
        repeats: number of timed calls.
        alone: whether each row on a CPU gets a fresh process, without which its memory is not
            measured right.
        limit: seconds after which a row is stopped and failed; None for no limit.

    Raises:
        ValueError: if a number is below 1, there are fewer cores than threads, or the dtype or
            device is unknown or unavailable.
    """

    size: tuple[int, int]
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads)
    repeats: int = 5
    alone: bool = True
    limit: float | None = None

    def __post_init__(self):
        height, width = self.size
        counts = (height, width, self.batch, self.threads, self.repeats)
        if min(counts) < 1:
            raise ValueError(
                "height, width, batch, threads and repeats must be at least 1, got "
                f"{', '.join(map(str, counts))}"
            )
        # PyTorch cannot start any number, and says so by ending the process
        if self.threads > (most := max(os.cpu_count() or 1, torch.get_num_threads())):
            raise ValueError(f"threads must be at most the {most} cores, got {self.threads}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.device not in DEVICES:
            raise ValueError(f"device must be {' or '.join(DEVICES)}, got {self.device!r}")
        require_device(self.device)

    @property
    def kind(self) -> dict[str, Any]:
        """Dtype and device as keyword arguments of PyTorch."""
        return dict(dtype=getattr(torch, self.dtype), device=self.device)

    @property
    def clock(self) -> dict[str, Any]:
        """Keyword arguments of :func:`time_call`."""
        return dict(device=self.device, repeats=self.repeats)


def describe(settings: Settings) -> dict[str, Any]:
    """Return a description of the machine and the settings, which is saved with the rows."""
    return dict(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join([*_allocator_settings(), *program(), *sys.argv[1:]]),
        torch=torch.__version__,
        device_name=device_name(settings.device),
        **asdict(settings),
    )


def program() -> list[str]:
    """Return the words by which the program was started: `hb` and a command, or a script."""
    return sys.argv[0].split() if sys.argv[0].startswith("hb ") else ["python", sys.argv[0]]


def _allocator_settings() -> list[str]:
    """Return the environment variables of the C library's allocator, which affect times."""
    return [f"{name}={value}" for name, value in os.environ.items() if name.startswith("MALLOC_")]


def device_name(device: str) -> str:
    """Return the name of a GPU with its precision, or that of the processor."""
    if device == "cuda":
        convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        return f"{torch.cuda.get_device_name()} (float32 convolutions in {convolutions})"
    cpuinfo = Path("/proc/cpuinfo")  # on Linux; elsewhere Python reports a name
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""Availability of Triton kernels, their launch, and their gradients in autograd.

Triton is optional: only the kernel files import it, and they are imported when a kernel runs.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

from .device_choices import stands_for_gpu

# the first version whose kernels take tuples
MIN_VERSION = (3, 3)


def _is_installed() -> bool:
    if find_spec("triton") is None:
        return False
    # nightly builds of PyTorch bring it under another name
    for name in ("triton", "pytorch-triton"):
        with suppress(metadata.PackageNotFoundError):
            return tuple(map(int, metadata.version(name).split(".")[:2])) >= MIN_VERSION
    return False


INSTALLED = _is_installed()

# Triton reads this variable when a kernel is defined; its CPU interpreter is for tests only
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# the kernels need bfloat16 and tensor cores
MIN_CAPABILITY = (8, 0)

# kernel parameters that are not specialised, to avoid recompilation for every map size
MAP_COUNTS = [
    "num_heads",
    "query_height",
    "query_width",
    "key_height",
    "key_width",
    "tiles_y",
    "tiles_x",
]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@torch.compiler.assume_constant_result
def unsupported_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why kernels cannot run on this device and dtype, or None if they can."""
    if dtype not in DTYPES:
        return f"the dtype must be one of float32, float16 and bfloat16, got {dtype}"
    if stands_for_gpu(device):
        return None
    if not INSTALLED:
        return f"Triton {'.'.join(map(str, MIN_VERSION))} or later is not installed"
    if INTERPRETED:
        return None
    if device.type != "cuda" or torch.version.hip:
        return f"it needs a CUDA device or TRITON_INTERPRET=1 set before the import, got {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"it needs a CUDA device of compute capability {MIN_CAPABILITY}, got {capability}"
    return _missing_for_builds()


@cache
def _missing_for_builds() -> str | None:
    """Return what Triton lacks to build the code that launches its kernels, or None."""
    if "CC" not in os.environ and not any(map(shutil.which, ("gcc", "clang"))):
        return "Triton needs a C compiler: install gcc or clang, or set the variable CC"
    # Debian's own scheme has another folder, which Triton does not use
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme)["include"], "Python.h")
    if not header.is_file():
        return f"Triton needs {header}: install python3-dev"
    return None


def is_fast(device: torch.device) -> bool:
    """Return whether kernels run compiled on `device`, so that they may be the fastest."""
    return stands_for_gpu(device) or (device.type == "cuda" and not INTERPRETED)


def divide_up(number: int, by: int) -> int:
    """Return the quotient rounded up."""
    return -(-number // by)


def power_of_two(number: int, *, least: int = 1) -> int:
    """Return the smallest power of two that is at least `number` and `least`."""
    return max(least, 1 << (number - 1).bit_length())


def count_tiles(length: int, spacing: int, tile: int) -> int:
    """Return the number of tiles along an axis; the cells of a tile are `spacing` apart."""
    return min(spacing, length) * divide_up(length, spacing * tile)


def launch(kernel: Any, num_programs: int, *args: Any, **constants: Any) -> None:
    """Run the programs of a kernel on the device of its first argument, a tensor."""
    # Triton launches on the current device, wherever the tensors are
    with torch.cuda.device_of(args[0]):
        if num_programs:
            kernel[(num_programs,)](*args, **constants)


def register_gradient(
    operator: CustomOpDef,
    backward: Callable[..., tuple[Tensor, ...]],
    portable: Callable[..., Tensor],
) -> None:
    """Register the gradient of the first output of a custom operator.

    Args:
        operator: custom operator of tensors, then settings.
        backward: function from the gradient of that output and the tensors, outputs and settings of
            `operator` to the gradients of the first tensors.
        portable: the same operator in operations of PyTorch, whose gradient takes the place of
            `backward` where a further derivative is asked for (``create_graph=True``).
    """

    def save(ctx, inputs, output) -> None:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        ctx.settings = inputs[len(tensors) :]
        ctx.save_for_backward(*tensors, *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    def differentiate(ctx, grad, *_) -> tuple[Tensor | None, ...]:
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad
        if not torch.is_grad_enabled():
            grads = backward(grad, *saved, *ctx.settings)
            return *grads, *[None] * (len(needed) - len(grads))
        # views, as a tensor that comes from another one would pass its gradient on to that one
        tensors = [x.view_as(x) for x in saved[: len(needed) - len(ctx.settings)]]
        sources = [*compress(tensors, needed)]
        out = portable(*tensors, *ctx.settings)
        found = iter(torch.autograd.grad(out, sources, grad, create_graph=True))
        return tuple(next(found) if is_needed else None for is_needed in needed)

    operator.register_autograd(differentiate, setup_context=save)

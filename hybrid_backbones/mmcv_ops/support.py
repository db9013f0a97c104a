"""What the stand-in operators share: 16-bit inputs, gradients, and the refusal of all others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NO_STAND_IN = """\
mmcv operator '{name}' has no stand-in: it needs mmcv's compiled extension. Install a wheel made for
your torch and CUDA versions (mmcv's installation guide says where they are), or build one,
which requires torch and a C++ compiler (for GPUs also nvcc):
    pip install "setuptools>=80,<82" wheel packaging
    pip install --no-build-isolation --no-deps --force-reinstall --no-binary onedl-mmcv onedl-mmcv
With upstream's packages: pip uninstall mmcv-lite; pip install --no-build-isolation mmcv==2.1.0"""


def refuse(name: str, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(NO_STAND_IN.format(name=name))


def widen(first: Tensor, *others: Tensor) -> list[Tensor]:
    """Cast all to the dtype of the first, or to float32 if it has 16 bits, which kernels lack."""
    dtype = torch.float32 if first.dtype in (torch.float16, torch.bfloat16) else first.dtype
    return [tensor.to(dtype) for tensor in (first, *others)]


def gradients(function: Callable, *inputs: Tensor, grad: Tensor | float = 1.0, **constants: Any):
    """Return the gradients of `(function(*inputs, **constants) * grad).sum()` w.r.t. `inputs`."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        total = (function(*leaves, **constants) * grad).sum()
    return torch.autograd.grad(total, leaves)

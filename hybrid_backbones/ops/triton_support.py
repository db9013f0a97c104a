"""Whether kernels written in Triton can run here.

Triton is optional: it is imported by the kernels' own files, and these only when a kernel runs.
"""

import os
from importlib.util import find_spec

import torch

INSTALLED = find_spec("triton") is not None

# Triton reads this, too, when a kernel is defined; on the CPU its interpreter is for tests alone
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# bfloat16 and the matrix units that the kernels count on
MIN_CAPABILITY = (8, 0)

# no kernel is the default before one has been run and measured on a GPU
MEASURED = False

# parameters of kernels on maps, which are not compiled anew for another number of these
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
    """Return why no kernel can run for tensors like this, or None where one can."""
    if not INSTALLED:
        return "Triton is not installed"
    if dtype not in DTYPES:
        return f"it computes in float32, float16 and bfloat16, got {dtype}"
    if INTERPRETED:
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device or TRITON_INTERPRET=1 from the start, got {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"it needs a CUDA device of capability {MIN_CAPABILITY}, got {capability}"
    return None


def is_fast(device: torch.device) -> bool:
    """Tell whether kernels that can run here are compiled and known to be the fastest."""
    return MEASURED and device.type == "cuda" and not INTERPRETED

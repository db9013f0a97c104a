"""The fastest implementation of each operator on a GPU, as measured; ``fastest.json`` has them.

``python tools/benchmark.py gpu`` writes a new one into its folder of results.
"""

import json
from pathlib import Path

import torch

TABLE = Path(__file__).with_name("fastest.json")
FASTEST = json.loads(TABLE.read_text())["fastest"]


@torch.compiler.assume_constant_result
def fastest_on_gpu(operator: str, dtype: torch.dtype, differentiates: bool) -> str | None:
    """Return the name of the implementation, or None if the dtype was not measured.

    Args:
        operator: name of the operator.
        dtype: dtype of its maps.
        differentiates: whether gradients are computed.
    """
    measured = FASTEST[operator].get(str(dtype).removeprefix("torch."), {})
    return measured.get("forward_backward" if differentiates else "forward")

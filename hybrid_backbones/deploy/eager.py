"""Models in PyTorch with the inputs and outputs of exported files."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .compare import Outputs
from .runtime import finish, first_line

# from an RGB image (H, W, 3) to named outputs
Predict = Callable[[np.ndarray], dict[str, np.ndarray]]


def as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return one tensor or several as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


class Tupled(nn.Module):
    """A model whose outputs are always a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Outputs:
        return as_tuple(self.model(*inputs))


class Half(nn.Module):
    """A model in float16 with outputs in float32."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.half()

    def forward(self, *inputs: Tensor) -> Outputs:
        outputs = as_tuple(self.model(*inputs))
        return tuple(x.float() if x.is_floating_point() else x for x in outputs)


def halve_features(model: nn.Module) -> None:
    """Let the backbone and the neck of a detector compute in float16, and the rest in float32."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("backbone", "neck"):
            module.half()
            module.register_forward_pre_hook(lambda _, inputs: _cast(inputs, torch.float16))
            module.register_forward_hook(lambda _, __, outputs: _cast(outputs, torch.float32))


def _cast(values: Any, dtype: torch.dtype) -> Any:
    """Cast all floating-point tensors in nested tuples and lists."""
    if isinstance(values, tuple | list):
        return type(values)(_cast(value, dtype) for value in values)
    is_floating = isinstance(values, Tensor) and values.is_floating_point()
    return values.to(dtype) if is_floating else values


@torch.no_grad()
def run_model(model: nn.Module, inputs: tuple[Tensor, ...]) -> Outputs:
    """Run a model.

    Raises:
        ValueError: if it cannot take images of this size.
    """
    try:
        return model(*inputs)
    except (RuntimeError, ValueError) as error:
        height, width = inputs[0].shape[2:]
        raise ValueError(
            f"the model cannot take images of {height}x{width} pixels: {first_line(error)}"
        ) from error


def predict(model: nn.Module, pixels: np.ndarray, notes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Predict by PyTorch as an exported file does."""
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    outputs = (x.numpy() for x in run_model(model, (images,)))
    return finish(dict(zip(notes["outputs"], outputs, strict=True)), notes, pixels.shape[:2])

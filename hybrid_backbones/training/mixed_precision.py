"""Mixed precision: which wrapper of the optimizer runs which half precision on which device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

# the names of --amp
DTYPES = dict(fp16="float16", bf16="bfloat16")
# by device; a CPU computes slowly in float16, and every loss in it must be scaled
DEFAULTS = dict(cuda="float16", cpu="bfloat16")


def amp_wrapper(device: str, dtype: str) -> dict:
    """Return the settings that make an `optim_wrapper` train in mixed precision.

    float16 has a loss scale, which follows the gradients; bfloat16 has float32's range and needs
    none.

    Args:
        device: ``'cuda'`` or ``'cpu'``.
        dtype: ``'float16'`` or ``'bfloat16'``.

    Raises:
        ValueError: for another dtype, and for one in which the device cannot compute.
    """
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES.values())}, got {dtype!r}")
    if dtype == "bfloat16":
        if device == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError(
                f"{torch.cuda.get_device_name()} cannot compute in bfloat16: use float16 (fp16)"
            )
        return dict(type="BFloat16OptimWrapper")
    if device == "cuda":
        return dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")
    return dict(type="CPUFloat16OptimWrapper")


def train_in_mixed_precision(optim_wrapper: dict, device: str, dtype: str) -> dict:
    """Return a config's `optim_wrapper` with what :func:`amp_wrapper` sets.

    A loss scale or dtype that the config has for another wrapper is dropped.
    """
    own = {k: v for k, v in optim_wrapper.items() if k not in ("type", "loss_scale", "dtype")}
    return own | amp_wrapper(device, dtype)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Run the forward pass under bfloat16 autocast, on any device, without a loss scale."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device where the model is."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


@OPTIM_WRAPPERS.register_module()
class CPUFloat16OptimWrapper(AmpOptimWrapper):
    """Run the forward pass under float16 autocast on the CPU, with a dynamic loss scale.

    mmengine's wrapper has everything but a scaler for the CPU, without which it is not built.
    """

    def __init__(self, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler("cpu")
        self._scale_update_param = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the CPU."""
        with OptimWrapper.optim_context(self, model), torch.autocast("cpu", torch.float16):
            yield

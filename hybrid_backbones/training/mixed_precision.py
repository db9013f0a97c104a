"""Mixed precision: the optimizer wrapper for each device and 16-bit dtype."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

# dtypes by their names in --amp
DTYPES = dict(fp16="float16", bf16="bfloat16")
# default dtype by device; float16 is slow on CPUs and needs a loss scale
DEFAULTS = dict(cuda="float16", cpu="bfloat16")


def amp_wrapper(device: str, dtype: str) -> dict:
    """Return the `optim_wrapper` settings for training in mixed precision.

    float16 needs a loss scale, which adapts to the gradients; bfloat16 has float32's range and
    needs none.

    Args:
        device: ``'cuda'`` or ``'cpu'``.
        dtype: ``'float16'`` or ``'bfloat16'``.

    Raises:
        ValueError: if the dtype is unknown, or not supported by the device.
    """
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES.values())}, got {dtype!r}")
    if dtype == "bfloat16":
        # cuDNN's convolutions are not emulated
        if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(
                f"{torch.cuda.get_device_name()} cannot compute in bfloat16: use float16 (fp16)"
            )
        return dict(type="BFloat16OptimWrapper")
    if device == "cuda":
        return dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")
    return dict(type="CPUFloat16OptimWrapper")


def train_in_mixed_precision(optim_wrapper: dict, device: str, dtype: str) -> dict:
    """Return a config's `optim_wrapper` with the settings of :func:`amp_wrapper`.

    These replace its own type, loss scale and dtype.
    """
    own = {k: v for k, v in optim_wrapper.items() if k not in ("type", "loss_scale", "dtype")}
    return own | amp_wrapper(device, dtype)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimizer wrapper with a bfloat16 forward pass on any device, without a loss scale."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast on the device of the model."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


@OPTIM_WRAPPERS.register_module()
class CPUFloat16OptimWrapper(AmpOptimWrapper):
    """Optimizer wrapper with a float16 forward pass on the CPU and a dynamic loss scale.

    The constructor of mmengine's wrapper fails on a CPU, for which it has no gradient scaler.
    """

    def __init__(self, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler("cpu")
        self._scale_update_param = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast on the CPU."""
        with OptimWrapper.optim_context(self, model), torch.autocast("cpu", torch.float16):
            yield

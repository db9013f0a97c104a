"""What `--compile` does: the backbone through `torch.compile`, everything else as it is."""

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from ..backbones import HierarchicalBackbone


def require_compiler(device: str) -> None:
    """Compile one addition, to learn of what is missing before anything else begins.

    Raises:
        ValueError: where PyTorch cannot compile for this device.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--compile: PyTorch cannot compile for {device} here ({reason}); install a C++ "
            "compiler such as g++ (and Triton for a GPU), or leave --compile out"
        ) from error


def compile_backbone(model: nn.Module) -> None:
    """Compile the backbone of a model in place, at its first call; its entries keep their names.

    mmengine's own `compile` setting takes the whole step of a training, heads included, which look
    at values to assign targets and would be cut into many graphs; and it leaves testing out.

    Each shape of the images is compiled on its own, training and evaluation as well, up to
    PyTorch's limit of eight. PyTorch warns about further ones, and runs them uncompiled.

    Args:
        model: with a `backbone`; perhaps in a wrapper for several processes.

    Raises:
        ValueError: for a model without one, and for blocks that are to be recomputed in training.
    """
    model = model.module if is_model_wrapper(model) else model
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"--compile: {type(model).__name__} has no backbone; leave --compile out")
    if backbone.training and any(_recomputes(module) for module in backbone.modules()):
        raise ValueError(
            "--compile: blocks that are recomputed cannot be compiled; set with_cp=False in the "
            "backbone's config, or leave --compile out"
        )
    # shapes as unknowns make windows and tiles so hard to reason about that tracing takes minutes,
    # or fails
    backbone.compile(dynamic=False)
    print_log(f"{type(backbone).__name__} is compiled for each shape of images when it comes")


def _recomputes(module: nn.Module) -> bool:
    if not isinstance(module, HierarchicalBackbone):
        return False
    return module.with_cp if isinstance(module.with_cp, bool) else any(module.with_cp)

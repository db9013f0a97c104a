"""`--compile`: compile the backbone with `torch.compile`, and leave the other parts eager."""

import torch
from mmengine.logging import print_log
from torch import nn

from ..backbones.base import StagedNetwork
from ..checkpoints import unwrap


def require_compiler(device: str) -> None:
    """Compile one addition, to detect a missing compiler before anything else starts.

    Raises:
        ValueError: if PyTorch cannot compile for this device.
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
    """Compile the backbone of a model in place, at its first call; state-dict names are kept.

    mmengine's own `compile` setting compiles the whole training step. That includes the heads,
    whose data-dependent assignment of targets splits the graph, and it excludes evaluation.

    Each image shape is compiled separately, and so are training and evaluation, up to PyTorch's
    limit of eight compilations. PyTorch warns about further ones and runs them uncompiled.

    Args:
        model: model with a `backbone`, possibly wrapped for distributed training.

    Raises:
        ValueError: if the model has no backbone, or recomputes activations of a training step.
    """
    model = unwrap(model)
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"--compile: {type(model).__name__} has no backbone; leave --compile out")
    if backbone.training and any(_recomputes(module) for module in backbone.modules()):
        raise ValueError(
            "--compile: blocks with recomputed activations cannot be compiled; set with_cp=False "
            "in the backbone's config, or leave --compile out"
        )
    # a graph for any size takes minutes to compile, and PyTorch 2.11 fails on windows in training
    backbone.compile(dynamic=False)
    print_log(f"{type(backbone).__name__} is compiled at the first batch of each image shape")


def _recomputes(module: nn.Module) -> bool:
    if not isinstance(module, StagedNetwork):
        return False
    return module.with_cp if isinstance(module.with_cp, bool) else any(module.with_cp)

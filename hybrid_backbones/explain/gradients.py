"""What an output depends on, by gradients: effective receptive field and Grad-CAM.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
NeurIPS 2016, https://arxiv.org/abs/1701.04128; Selvaraju et al., "Grad-CAM: Visual Explanations
from Deep Networks via Gradient-Based Localization", ICCV 2017, https://arxiv.org/abs/1610.02391.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .capture import Images, evaluating, network_of
from .look import require_position


@contextmanager
def _tracked_output(model: nn.Module, module: str) -> Iterator[list[Tensor]]:
    """Collect the maps that a module returns, as tensors by which one can differentiate.

    Yields:
        list that receives a map at each call.

    Raises:
        ValueError: if the model has no such module.
    """
    modules = dict(model.named_modules())
    if module not in modules:
        raise ValueError(
            f"no module {module!r} in {type(model).__name__}: expected the path of a stage or block"
        )
    maps: list[Tensor] = []

    def keep(_: nn.Module, args: tuple, output: Any) -> Any:
        found = getattr(output, "map", output)
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise ValueError(f"module {module!r} returns no map (B, C, H, W)")
        if found.requires_grad:
            maps.append(found)
            return None
        # all before it is frozen
        maps.append(found.detach().requires_grad_())
        return maps[-1] if output is found else output._replace(map=maps[-1])

    hook = modules[module].register_forward_hook(keep)
    eager = torch.compiler.set_stance("force_eager")
    try:
        with evaluating(model), torch.enable_grad(), eager:
            yield maps
    finally:
        hook.remove()


def receptive_field(
    model: nn.Module, images: Images, module: str, position: Sequence[int]
) -> Tensor:
    """Compute the effective receptive field of a position of a module's map.

    It is the size of the gradient of the sum of all channels at this position by each pixel, summed
    over the colours. Gradients of weights are neither computed nor changed.

    Args:
        model: backbone, or model with one.
        images: batch of images ``(B, 3, H, W)``, or a tuple of all arguments of the model.
        module: path of a module that returns a map, such as ``'stages.2'``.
        position: row and column ``(y, x)`` of that map.

    Returns:
        sizes ``(B, H, W)``, zero for pixels on which the position does not depend.

    Raises:
        ValueError: if there is no such module or position, or the model does not take the images.
    """
    network, (first, *more) = network_of(model, images)
    pixels = first.detach().clone().requires_grad_()
    with _tracked_output(model, module) as maps:
        network(pixels, *more)
        if not maps:
            raise ValueError(f"the model does not run its module {module!r} on images")
        y, x = require_position(position, tuple(maps[-1].shape[2:]), module)
        (gradient,) = torch.autograd.grad(maps[-1][:, :, y, x].sum(), pixels)
    return gradient.abs().sum(1)


def class_activation(model: nn.Module, module: str, score: Callable[[], Tensor]) -> Tensor:
    """Compute Grad-CAM: where a module's map speaks for a score.

    With the map A and the mean over positions ``α_c = mean_p ∂score/∂A_c(p)``::

        out(p) = max(Σ_c α_c A_c(p), 0)

    Args:
        model: model that computes the score.
        module: path of a module in it that returns a map, such as ``'backbone.stages.3'``.
        score: function that runs the model, which is in evaluation mode then, and returns one
            number that depends on the map, such as the logit of a class or the score of a box.

    Returns:
        evidence for the score, ``(B, H, W)``, zero or more.

    Raises:
        ValueError: if there is no such module, or the score does not depend on it.
    """
    with _tracked_output(model, module) as maps:
        value = score()
        if not maps or not value.requires_grad:
            raise ValueError(f"the score does not depend on the module {module!r}")
        (gradient,) = torch.autograd.grad(value, maps[-1], allow_unused=True)
    if gradient is None:
        raise ValueError(f"the score does not depend on the module {module!r}")
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * maps[-1].detach()).sum(1).clamp_min(0)

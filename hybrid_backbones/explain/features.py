"""Feature maps of the stages, and their principal components as colours."""

import torch
from torch import Tensor, nn

from ..backbones.base import StagedNetwork
from .capture import Call, Images, run, watching

# part of the values of a colour that lie beyond its darkest and its brightest tone, at each end
CLIPPED = 0.01


def stage_paths(model: nn.Module) -> list[str]:
    """Return the paths of the stages of all backbones of this project in a model, in order.

    Without such a backbone, those of ``layer1`` to ``layer4`` of the hosts' ResNets.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    stages = [
        paths[id(stage)]
        for network in model.modules()
        if isinstance(network, StagedNetwork)
        for stage in network.stages
    ]
    layers = {f"layer{i}" for i in range(1, 5)}
    return stages or [p for p in paths.values() if p.rpartition(".")[2] in layers]


def stage_features(model: nn.Module, images: Images) -> dict[str, Tensor]:
    """Return the output map ``(B, C, H, W)`` of every stage, before its norm, by its path.

    Args:
        model: backbone, or model with one.
        images: batch of images ``(B, 3, H, W)``, or a tuple of all arguments of the model.
    """
    found: dict[str, Tensor] = {}

    def see(path: str, call: Call) -> None:
        found[path] = getattr(call.output, "map", call.output).clone()

    with watching({path: model.get_submodule(path) for path in stage_paths(model)}, see):
        run(model, images)
    return found


def principal_colours(features: Tensor) -> Tensor:
    """Show features by their three principal components over the positions of each image.

    Components are signed so that their largest channel is positive, and each is stretched from its
    1st to its 99th percentile. Those that do not vary are grey.

    Args:
        features: maps ``(B, C, H, W)``.

    Returns:
        red, green and blue from 0 to 1, ``(B, 3, H, W)``: the first three components.
    """
    tokens = features.flatten(2).mT.to(torch.promote_types(features.dtype, torch.float32))
    tokens = tokens - tokens.mean(1, keepdim=True)  # (B, N, C)
    _, sizes, axes = torch.linalg.svd(tokens, full_matrices=False)  # axes: (B, k, C)
    largest = axes.gather(2, axes.abs().argmax(2, keepdim=True))
    components = (tokens @ (axes * largest.sign()).mT)[..., :3]  # (B, N, 3 or fewer)
    ends = torch.tensor([CLIPPED, 1 - CLIPPED], dtype=tokens.dtype, device=tokens.device)
    low, high = components.quantile(ends, 1, keepdim=True)
    # rounding errors are no variation
    noise = torch.finfo(tokens.dtype).eps * 100 * features.abs().amax((1, 2, 3)).view(-1, 1, 1)
    varies = (sizes[:, None, :3] > noise * tokens.shape[1] ** 0.5) & (high > low)
    stretched = ((components - low) / (high - low)).clamp(0, 1)
    colours = torch.where(varies, stretched, 0.5)
    missing = colours.new_full((*colours.shape[:2], 3 - colours.shape[2]), 0.5)
    return torch.cat([colours, missing], 2).mT.unflatten(2, features.shape[2:])

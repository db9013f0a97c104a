"""What the operators of a network decide on images: routes, rates, gates, kept tokens, kernels."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..backbones.uniformer_light import TokenPruningBlock
from ..ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    EfficientAdditiveAttention,
    LocalRelationAggregator,
    MixingAttention,
)
from ..ops.uniformer import num_kept_tokens, order_by_score
from ..ops.xvolution import MergedXVolution, XVolution
from .capture import Call, Images, run, watching
from .kernels import dynamic_kernel
from .routing import find_routing
from .weights import token_scores


def _rates(call: Call) -> dict[str, Tensor]:
    module = call.module
    assert isinstance(module, ACmix | ACmixWindow)
    return dict(rates=torch.cat([module.rate1, module.rate2]))


def _routes(call: Call) -> dict[str, Tensor]:
    return dict(routes=find_routing(call).routes)


def _gates(call: Call) -> dict[str, Tensor]:
    height, width = call.inputs[0].shape[2:]
    channel = call.inner["channel_interaction"][-1].sigmoid()
    spatial = call.inner["spatial_interaction"][-1].sigmoid()[..., :height, :width]
    both = torch.cat([channel.expand(-1, -1, height, width), spatial], 1)
    return dict(gates=both, channel_gates=channel, spatial_gates=spatial)


def _kept(call: Call) -> dict[str, Tensor]:
    (x,), block = call.inputs, call.module
    assert isinstance(block, TokenPruningBlock)
    num_kept = num_kept_tokens(x.score.shape[1], block.keep_ratio)
    kept = torch.zeros_like(x.score, dtype=torch.bool)
    kept.scatter_(1, order_by_score(x.score)[:, :num_kept], True)
    size = x.map.shape[2:]
    return dict(kept=kept.unflatten(1, size), scores=call.output.score.unflatten(1, size).clone())


def _token_weights(call: Call) -> dict[str, Tensor]:
    return dict(scores=token_scores(call).unflatten(1, call.inputs[0].shape[2:]))


def _dynamic_kernel(call: Call) -> dict[str, Tensor]:
    if getattr(call.module, "attention", "shift") == "global":
        return {}
    return dict(kernel=dynamic_kernel(call))


def _static_kernel(call: Call) -> dict[str, Tensor]:
    assert isinstance(call.module, LocalRelationAggregator)
    return dict(kernel=call.module.attn.weight[:, 0].detach().clone())


# what to record of a module of each type, from one call
RECORDERS: dict[type[nn.Module], Callable[[Call], dict[str, Tensor]]] = {
    ACmix: _rates,
    ACmixWindow: _rates,
    BiLevelRoutingAttention: _routes,
    BiLevelRoutingAttention2d: _routes,
    EfficientAdditiveAttention: _token_weights,
    TokenPruningBlock: _kept,
    LocalRelationAggregator: _static_kernel,
    MergedXVolution: _dynamic_kernel,
    MixingAttention: _gates,
    XVolution: _dynamic_kernel,
}


def _recorders() -> dict[type[nn.Module], Callable[[Call], dict[str, Tensor]]]:
    # who has a LocFormer has imported it
    if "hybrid_backbones.locformer" not in sys.modules:
        return RECORDERS
    from .sketches import RECORDERS as SKETCHES

    return {**RECORDERS, **SKETCHES}


def record(model: nn.Module, images: Images) -> dict[str, dict[str, Tensor]]:
    """Run a model on images, and return what its operators decide.

    The model runs without gradients and in evaluation mode, eagerly even if it is compiled;
    weights, statistics and training mode stay as they are. What is recorded, by operator:

    ============================ ============================================================
    ``rates`` (2,)               ACmix: α of the attention and β of the convolution
    ``routes`` (B, R', k)        bi-level routing: regions each region attends to, best first
    ``gates`` (B, C/2 + 1, H, W) MixFormer: both gates, from 0 to 1, the spatial one last;
                                 ``channel_gates`` (B, C/2, 1, 1), ``spatial_gates`` (B, 1, H, W)
    ``kept`` (B, H, W)           UniFormerLight: whether a block processes a token individually;
                                 ``scores`` (B, H, W) after the block
    ``scores`` (B, H, W)         SwiftFormer: learned weight of each token in the global query
    ``kernel`` (B, h, K², H, W)  X-volution: weight of each offset, row by row, at a position
    ``kernel`` (C, K, K)         UniFormer's local aggregator: learned, the same for all images
    ``sketch_attention``         LocFormer: (B, Q, H, W, H', W'), from image to sketch positions
    ============================ ============================================================

    Args:
        model: backbone, or detector, segmentor or classifier, whose backbone alone runs; or any
            module with such operators.
        images: batch of images as the network takes them, ``(B, 3, H, W)``; or a tuple of all
            arguments of the model, such as images and sketches ``(B, Q, 3, H', W')`` of LocFormer.

    Returns:
        for each module that was run and has something to record, by its path in the model and in
        the order of the calls, tensors by name.

    Raises:
        ValueError: if the model does not take these images.
    """
    recorders = {
        path: (module, recorder)
        for path, module in model.named_modules()
        for kind, recorder in _recorders().items()
        if isinstance(module, kind)
    }
    found: dict[str, dict[str, Tensor]] = {}

    def see(path: str, call: Call) -> None:
        if tensors := recorders[path][1](call):
            found[path] = tensors

    with watching({path: module for path, (module, _) in recorders.items()}, see):
        run(model, images)
    return found

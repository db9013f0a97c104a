"""Sketch guidance: fuse sketch features into each stage of any backbone.

The paper (see `detector.py`) guides only a Swin Transformer, found in `backbone.py`. This file has
the parts that it shares with :class:`SketchGuided`, our extension of the paper to other backbones.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import gcd
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..backbones import HierarchicalBackbone
from .fusion import StageFusion


class GuidedFeatures(NamedTuple):
    """Features that a guided backbone computes for the decoder."""

    maps: tuple[Tensor, ...]  # (B, C_l, H_l, W_l), at strides 8, 16, 32 and 64
    tokens: Tensor  # (B, N, C), initial content of the object queries
    positions: Tensor  # (1, N, C'), position embedding of the object queries


def bind_sketch(fusions: Iterable[nn.Module], sketch: Tensor) -> list[Callable[[Any], Any]]:
    """Bind sketch features to the :class:`StageFusion` of each stage.

    Args:
        fusions: one `StageFusion` for each stage.
        sketch: sketch features, ``(B, Q, C', H', W')``.

    Returns:
        functions for `StagedNetwork.run_stages` that fuse the sketch into a map ``(B, C, H, W)``,
        or into the field `map` of a named tuple.
    """
    return [partial(_fuse, fusion, sketch) for fusion in fusions]


def _fuse(fusion: nn.Module, sketch: Tensor, x: Any) -> Any:
    if isinstance(x, Tensor):
        return fusion(x, sketch)
    return x._replace(map=fusion(x.map, sketch))


@torch.no_grad()
def stage_in_channels(backbone: HierarchicalBackbone) -> list[int]:
    """Return the number of channels that enter the first block of each stage, by a forward pass."""
    widths = []

    def record(block: nn.Module, args: tuple) -> None:
        widths.append(getattr(args[0], "map", args[0]).shape[1])

    hooks = [
        stage.get_submodule("0").register_forward_pre_hook(record) for stage in backbone.stages
    ]
    training = backbone.training
    backbone.eval()(next(backbone.parameters()).new_zeros(1, 3, 64, 64))
    backbone.train(training)
    for hook in hooks:
        hook.remove()
    return widths


@MODELS.register_module()
class SketchGuided(BaseModule):
    """Backbone with sketch features fused into each stage, and learned object queries.

    Before the blocks of each stage, the positions of its map attend to the sketch. A 3×3
    convolution of stride 2 computes a fourth output, of stride 64, from the last map.

    Args:
        backbone: config of a `HierarchicalBackbone`; its `out_indices` must be (1, 2, 3).
        embed_dims: number of channels of the sketch features, the queries and the last map.
        num_queries: number of object queries N, the maximum number of detections.
        fusion_dims: number of hidden channels of the sketch fusions.
        dropout: dropout rate of the sketch fusions.
        init_cfg: as in :class:`mmengine.model.BaseModule`.

    Raises:
        ValueError: if the backbone is of another class or has other `out_indices`.
    """

    def __init__(
        self,
        backbone: dict,
        *,
        embed_dims: int = 256,
        num_queries: int = 100,
        fusion_dims: int = 1024,
        dropout: float = 0.4,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        self.body = MODELS.build(backbone)
        if not isinstance(self.body, HierarchicalBackbone):
            raise ValueError(f"expected a HierarchicalBackbone, got {type(self.body).__name__}")
        if self.body.out_indices != (1, 2, 3):
            raise ValueError(f"out_indices must be (1, 2, 3), got {self.body.out_indices}")
        self.fusions = nn.ModuleList(
            # the paper's 8 heads and 32 groups do not divide the channels of every backbone
            StageFusion(
                width,
                embed_dims,
                num_groups=gcd(32, width),
                hidden_dims=fusion_dims,
                num_heads=gcd(8, width),
                dropout=dropout,
            )
            for width in stage_in_channels(self.body)
        )
        self.last_downsample = nn.Conv2d(self.body.channels[3], embed_dims, 3, 2, 1)
        self.token_dims = self.position_dims = embed_dims
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, embed_dims))
        self.query_positions = nn.Parameter(torch.empty(1, num_queries, embed_dims))
        nn.init.normal_(self.query_tokens)
        nn.init.normal_(self.query_positions)

    def forward(self, images: Tensor, padding: Tensor, sketch: Tensor) -> GuidedFeatures:
        """Compute the features of images, guided by sketches.

        Args:
            images: batch of images, ``(B, 3, H, W)``.
            padding: unused here, as in other detectors; the decoder masks the padding.
            sketch: sketch features, ``(B, Q, embed_dims, H', W')``.
        """
        fusions = bind_sketch(self.fusions, sketch)
        outs = self.body.run_stages(self.body.stem(images), fusions)
        maps = [self.body.normalise(i, outs[i]) for i in (1, 2, 3)]
        maps.append(self.last_downsample(maps[-1]))
        tokens = self.query_tokens.expand(len(images), -1, -1)
        return GuidedFeatures(tuple(maps), tokens, self.query_positions)

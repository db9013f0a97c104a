"""Sketch guidance: sketch features are fused into each stage of any backbone.

Tripathi et al., "Query-guided Attention in Vision Transformers for Localizing Objects Using a
Single Sketch", WACV 2024, https://arxiv.org/abs/2303.08784, guides a Swin Transformer, which is in
`swin_ram.py`. Here is what it shares with guided backbones of other kinds, which go beyond the
paper.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import gcd
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..backbones import HierarchicalBackbone
from .fusion import StageFusion


class GuidedFeatures(NamedTuple):
    """What a guided backbone computes for the decoder."""

    maps: tuple[Tensor, ...]  # (B, C_l, H_l, W_l), at strides 8, 16, 32 and 64
    tokens: Tensor  # (B, N, C), what the queries begin with
    positions: Tensor  # (1, N, C'), where they are


def fusions_with(
    fusions: Iterable[StageFusion], sketch: Tensor
) -> list[Callable[[Tensor | tuple], Tensor | tuple]]:
    """Return for each stage what fuses the sketch into the input of its first block.

    Args:
        fusions: one for each stage.
        sketch: ``(B, S, C', H', W')``.

    Returns:
        functions of a map ``(B, C, H, W)``, or of a named tuple that has one as its field `map`.
    """
    return [partial(_fuse, fusion, sketch) for fusion in fusions]


def _fuse(fusion: StageFusion, sketch: Tensor, x: Tensor | tuple) -> Tensor | tuple:
    if isinstance(x, Tensor):
        return fusion(x, sketch)
    return x._replace(map=fusion(x.map, sketch))


@torch.no_grad()
def entry_widths(backbone: HierarchicalBackbone) -> list[int]:
    """Find out how many channels enter the first block of each stage."""
    widths = []

    def note(block: nn.Module, args: tuple) -> None:
        widths.append(getattr(args[0], "map", args[0]).shape[1])

    hooks = [stage.get_submodule("0").register_forward_pre_hook(note) for stage in backbone.stages]
    training = backbone.training
    backbone.eval()(next(backbone.parameters()).new_zeros(1, 3, 64, 64))
    backbone.train(training)
    for hook in hooks:
        hook.remove()
    return widths


@MODELS.register_module()
class SketchGuided(BaseModule):
    """Fuse sketch features into each stage of a backbone, and provide learned queries.

    In front of each stage, positions of the image attend to the sketch. The maps of the last three
    stages are completed by one of stride 64, a 3×3 convolution of the last.

    Args:
        backbone: config of the backbone; its `out_indices` must be (1, 2, 3).
        embed_dims: channels of the sketch, the queries and the last map.
        num_queries: how many objects are found at most.
        fusion_dims: channels between the linear layers of the fusions.
        dropout: rate within these.
        init_cfg: as in :class:`mmengine.model.BaseModule`.

    Raises:
        ValueError: for another backbone or other outputs.
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
            # widths of the paper's backbone take 8 heads and 32 groups
            StageFusion(
                width,
                embed_dims,
                num_groups=gcd(32, width),
                hidden_dims=fusion_dims,
                num_heads=gcd(8, width),
                dropout=dropout,
            )
            for width in entry_widths(self.body)
        )
        self.last_downsample = nn.Conv2d(self.body.channels[3], embed_dims, 3, 2, 1)
        self.token_dims = self.position_dims = embed_dims
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, embed_dims))
        self.query_positions = nn.Parameter(torch.empty(1, num_queries, embed_dims))
        nn.init.normal_(self.query_tokens)
        nn.init.normal_(self.query_positions)

    def forward(self, images: Tensor, padding: Tensor, sketch: Tensor) -> GuidedFeatures:
        """Compute the features of images ``(B, 3, H, W)``, given ``(B, S, C, H', W')``.

        The padding plays no part in it, as in other detectors: the decoder masks it.
        """
        fusions = fusions_with(self.fusions, sketch)
        outs = self.body.run_stages(self.body.stem(images), fusions)
        maps = [self.body.normalise(i, outs[i]) for i in (1, 2, 3)]
        maps.append(self.last_downsample(maps[-1]))
        tokens = self.query_tokens.expand(len(images), -1, -1)
        return GuidedFeatures(tuple(maps), tokens, self.query_positions)

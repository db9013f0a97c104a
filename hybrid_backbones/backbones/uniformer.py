"""UniFormer: convolution at high resolution and self-attention at low, in one form of block.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450. A block is a depthwise convolution as position encoding, a
relation aggregator and an MLP. The aggregator is local (a convolution) in stages 1 and 2 and global
(self-attention) in stages 3 and 4; for dense prediction, stage 3 can use window attention.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import DropPath, LayerNorm2d, Mlp, PatchEmbed, PointwiseConv2d, conv_bn, conv_stem
from ..ops.uniformer import GlobalRelationAggregator, LocalRelationAggregator
from .base import HierarchicalBackbone, drop_path_rates, read_arch

ATTENTIONS = ("global", "hybrid", "windows")
# for blocks and dense outputs; as published, patch embeddings keep PyTorch's eps of 1e-5
BlockNorm = partial(LayerNorm2d, eps=1e-6)


def position_encoding(embed_dims: int) -> nn.Conv2d:
    """Build the depthwise 3×3 convolution that encodes positions."""
    return nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)


def patch_embed(in_channels: int, embed_dims: int, patch_size: int = 2) -> PatchEmbed:
    """Build the patch embedding before a stage."""
    return PatchEmbed(in_channels, embed_dims, patch_size, LayerNorm2d)


def init_linear_layers(network: nn.Module) -> None:
    """Initialise linear layers as published; convolutions and norms keep PyTorch's default."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


class LocalBlock(nn.Module):
    """Block of position encoding, local relation aggregator and MLP, with residual connections.

    Args:
        embed_dims: number of input and output channels.
        mlp_ratio: ratio of the MLP's hidden channels to `embed_dims`.
        drop_path: stochastic depth rate of the aggregator and the MLP.
    """

    def __init__(self, embed_dims: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        self.pos_embed = position_encoding(embed_dims)
        self.norm1 = nn.BatchNorm2d(embed_dims)
        self.attn = LocalRelationAggregator(embed_dims)
        self.norm2 = nn.BatchNorm2d(embed_dims)
        self.mlp = Mlp(embed_dims, embed_dims * mlp_ratio, PointwiseConv2d)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class GlobalBlock(nn.Module):
    """Block of position encoding, self-attention and MLP, with residual connections.

    Args:
        embed_dims: number of input and output channels.
        mlp_ratio: ratio of the MLP's hidden channels to `embed_dims`.
        drop_path: stochastic depth rate of the attention and the MLP.
        layer_scale: whether both branches have learned factors per channel, which start at 1e-6.
        **kwargs: arguments of :class:`GlobalRelationAggregator`.
    """

    def __init__(
        self, embed_dims: int, mlp_ratio: int, drop_path: float, layer_scale: bool, **kwargs
    ):
        super().__init__()
        self.pos_embed = position_encoding(embed_dims)
        self.norm1 = BlockNorm(embed_dims)
        self.attn = GlobalRelationAggregator(embed_dims, **kwargs)
        self.norm2 = BlockNorm(embed_dims)
        self.mlp = Mlp(embed_dims, embed_dims * mlp_ratio)
        self.drop_path = DropPath(drop_path)
        for name in ("gamma_1", "gamma_2"):
            gamma = nn.Parameter(torch.full((embed_dims,), 1e-6)) if layer_scale else None
            self.register_parameter(name, gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        x = x + self.pos_embed(x)
        x = x + self._branch(self.attn(self.norm1(x)), self.gamma_1)
        mixed = self.mlp(self.norm2(x).permute(0, 2, 3, 1))  # (B, H, W, C)
        return x + self._branch(mixed.permute(0, 3, 1, 2), self.gamma_2)

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        return self.drop_path(x if gamma is None else gamma[:, None, None] * x)


SIZES = dict(embed_dims=(64, 128, 320, 512), head_dims=64, conv_stem=False, layer_scale=False)
# Li et al., table 3, and the published code for what the paper omits. No weight's shape depends on
# head_dims: the weights of small_plus also load into small_plus_dim64, with wrong results
VARIANTS = {
    "small": dict(SIZES, depths=(3, 4, 8, 3)),
    "small_plus": dict(SIZES, depths=(3, 5, 9, 3), head_dims=32, conv_stem=True),
    "small_plus_dim64": dict(SIZES, depths=(3, 5, 9, 3), conv_stem=True),
    "base": dict(SIZES, depths=(5, 8, 20, 7)),
    "base_ls": dict(SIZES, depths=(5, 8, 20, 7), layer_scale=True),
}
# names of https://github.com/Sense-X/UniFormer, which numbers stages from 1
STAGE_RULES = (
    (r"^blocks([12])\.(\d+)\.(conv1|conv2|attn)\.(weight|bias)$", r"blocks\1.\2.attn.\3.\4"),
    (r"^patch_embed1\.(proj\.(?=\d))?", "stem."),
    (r"^patch_embed(\d)\.(proj\.(?=\d))?", r"blocks\1.downsample."),
    *((rf"^blocks{i + 1}\.", f"stages.{i}.") for i in range(4)),
    *((rf"^norm{i + 1}\.", f"norms.{i}.") for i in range(4)),
    (r"^head\.(?=weight|bias)", "head.fc."),
)


@MODELS.register_module()
class UniFormer(HierarchicalBackbone):
    """UniFormer backbone for images of any size.

    The feature maps have strides 4, 8, 16 and 32. With a patch stem, as published, their sides are
    rounded down; with a convolution stem (`small_plus`), up.

    Args:
        arch: key of `VARIANTS`, or a dict with the same keys as its rows.
        attention: self-attention of stage 3: ``'global'`` over all positions, ``'windows'`` within
            windows, ``'hybrid'`` global in every fourth block and within windows in the others.
            Stage 4 is always global. The weights are interchangeable.
        window_size: side of the attention windows, in positions of stage 3.
        drop_path_rate: stochastic depth rate of the last block; the rates rise linearly from 0 in
            the first block.
        out_norm: ``'each'`` normalises every output, for dense prediction; ``'final'`` only the
            last one, for a classifier; ``'none'`` no output.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    rename_rules = (*STAGE_RULES, (r"^norm\.", "final_norm."))

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        *,
        attention: str = "global",
        window_size: int = 14,
        drop_path_rate: float = 0.1,
        out_norm: str = "each",
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = read_arch(arch, VARIANTS)
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {ATTENTIONS}, got {attention!r}")
        windows = dict(window_size=window_size)

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            dims = self.channels[stage]
            if stage < 2:
                return LocalBlock(dims, 4, rate)
            is_global = attention == "global" or (attention == "hybrid" and (index + 1) % 4 == 0)
            reach = {} if stage == 3 or is_global else windows
            settings = dict(layer_scale=sizes["layer_scale"], head_dims=sizes["head_dims"])
            return GlobalBlock(dims, 4, rate, **settings, **reach)

        self.channels = tuple(sizes["embed_dims"])
        make_downsample = conv_bn if sizes["conv_stem"] else patch_embed
        first = self.channels[0]
        self.stem = conv_stem(first, nn.GELU) if sizes["conv_stem"] else patch_embed(3, first, 4)
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, sizes["depths"])):
            blocks = [make_block(i, j, rate) for j, rate in enumerate(rates)]
            downsample = make_downsample(*self.channels[i - 1 : i + 1]) if i else None
            self.stages.append(self.make_stage(i, blocks, downsample))
        self.add_norms(out_norm, BlockNorm, nn.BatchNorm2d)
        init_linear_layers(self)
        self.train()

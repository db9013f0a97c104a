"""BiFormer: a vision transformer whose tokens attend to the few most relevant regions.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
https://arxiv.org/abs/2303.08810. The first three stages use bi-level routing attention
(:mod:`hybrid_backbones.ops.biformer`) to 1, 4 and 16 of S×S regions; the last stage uses full
attention.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import DropPath, LayerNorm2d, Mlp, PointwiseConv2d, conv_bn, conv_stem
from ..ops.biformer import (
    AttentionLePE,
    AttentionLePE2d,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
)
from .base import HierarchicalBackbone, drop_path_rates, read_arch

# number of regions that each region attends to in the first three stages
TOPKS = (1, 4, 16)
HEAD_DIMS = 32
# the last stage has 8 heads for any number of channels
NUM_LAST_HEADS = 8

BlockNorm = partial(LayerNorm2d, eps=1e-6)


class MapMlp(Mlp):
    """MLP over the channels of a feature map, with linear layers."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchConv2d(nn.Conv2d):
    """Convolution of non-overlapping patches.

    Incomplete patches at the right and the bottom are cut off, as published; a map smaller than one
    patch is zero-padded.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int):
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H // patch, W // patch)``."""
        missing = [max(self.kernel_size[0] - side, 0) for side in x.shape[2:]]
        return super().forward(F.pad(x, (0, missing[1], 0, missing[0])))


class BiFormerBlock(nn.Module):
    """Transformer block with an optional position encoding::

        x = x + pos_embed(x)      if conv_position
        x = x + attn(norm1(x))
        x = x + mlp(norm2(x))

    Args:
        embed_dims: number of channels C.
        attn: attention that maps ``(B, C, H, W)`` to the same shape.
        mlp: MLP that maps ``(B, C, H, W)`` to the same shape.
        conv_position: whether a 3×3 depthwise convolution encodes positions.
        drop_path_rate: stochastic depth rate of the attention and the MLP branch.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: nn.Module,
        mlp: nn.Module,
        *,
        conv_position: bool,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.pos_embed = (
            nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
            if conv_position
            else None
        )
        self.norm1 = BlockNorm(embed_dims)
        self.attn = attn
        self.norm2 = BlockNorm(embed_dims)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def patch_stem(channels: int) -> nn.Sequential:
    """Build a stem from images ``(B, 3, H, W)`` to ``(B, channels, H // 4, W // 4)``."""
    return nn.Sequential(PatchConv2d(3, channels, 4), nn.BatchNorm2d(channels))


def patch_downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a downsampling by 2, rounding down: batch normalisation, then 2×2 patches."""
    return nn.Sequential(nn.BatchNorm2d(in_channels), PatchConv2d(in_channels, out_channels, 2))


SIZES = dict(mlp_ratio=3, overlap=True, pointwise_convs=False)
STL_SIZES = dict(
    embed_dims=(96, 192, 384, 768),
    depths=(2, 2, 6, 2),
    mlp_ratio=4,
    overlap=False,
)
# Zhu et al., table 1; stl, with the layout of Swin-T, is from the published code. `overlap`: stem
# and downsampling are overlapping convolutions, with position encoding, or patches without it.
# `pointwise_convs`: the refactored operators, with 1×1 convolutions and other padding. `stl` was
# published as biformer_stl_nchw and `stl_linear` as biformer_stl; neither loads the other's weights
VARIANTS = {
    "tiny": dict(SIZES, embed_dims=(64, 128, 256, 512), depths=(2, 2, 8, 2)),
    "small": dict(SIZES, embed_dims=(64, 128, 256, 512), depths=(4, 4, 18, 4)),
    "base": dict(SIZES, embed_dims=(96, 192, 384, 768), depths=(4, 4, 18, 4)),
    "stl": dict(STL_SIZES, pointwise_convs=True),
    "stl_linear": dict(STL_SIZES, pointwise_convs=False),
}


@MODELS.register_module()
class BiFormer(HierarchicalBackbone):
    """BiFormer backbone for images of any size.

    The feature maps have strides 4, 8, 16 and 32; `stl` and `stl_linear` round their sides down,
    the other variants up.

    Args:
        arch: key of `VARIANTS`, or a dict with the same keys as its rows.
        num_windows: number S of regions per side in the first three stages, at least 4. The
            publication uses 7 for classification, 16 for detection and 8 for segmentation, with
            the same weights.
        drop_path_rate: stochastic depth rate of the last block; the rates rise linearly from 0 in
            the first block.
        out_norm: ``'each'`` normalises every output, for dense prediction; ``'final'`` only the
            last one, for a classifier; ``'none'`` no output.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    channels_last = True
    rename_rules = (
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^(stages\.\d)\.blocks\.", r"\1."),
        # the activation, and in tiny to base also an identity, take indices of the Sequential
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.[23]\.", ".mlp.fc2."),
        (r"^extra_norms\.", "norms."),
        (r"^norm\.", "final_norm."),
        (r"^head\.(?=weight|bias)", "head.fc."),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        num_windows: int = 16,
        drop_path_rate: float = 0.1,
        out_norm: str = "each",
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = read_arch(arch, VARIANTS)
        overlap, pointwise = sizes["overlap"], sizes["pointwise_convs"]

        def make_block(stage: int, rate: float) -> nn.Module:
            dims = self.channels[stage]
            hidden = sizes["mlp_ratio"] * dims
            if stage == 3:
                attention = AttentionLePE2d if pointwise else AttentionLePE
                attn = attention(dims, NUM_LAST_HEADS)
            else:
                attention = BiLevelRoutingAttention2d if pointwise else BiLevelRoutingAttention
                attn = attention(dims, dims // HEAD_DIMS, num_windows, TOPKS[stage])
            mlp = Mlp(dims, hidden, PointwiseConv2d) if pointwise else MapMlp(dims, hidden)
            return BiFormerBlock(dims, attn, mlp, conv_position=overlap, drop_path_rate=rate)

        self.channels = tuple(sizes["embed_dims"])
        first = self.channels[0]
        self.stem = conv_stem(first, nn.GELU) if overlap else patch_stem(first)
        make_downsample = conv_bn if overlap else patch_downsample
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, sizes["depths"])):
            blocks = [make_block(i, rate) for rate in rates]
            downsample = make_downsample(*self.channels[i - 1 : i + 1]) if i else None
            self.stages.append(self.make_stage(i, blocks, downsample))
        self.add_norms(out_norm, BlockNorm, nn.BatchNorm2d)
        for module in self.modules():
            # as published: convolutions keep PyTorch's default initialisation
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.train()

"""UniFormer: convolution at high resolution and self-attention at low, in one form of block.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450. A block is a depthwise convolution as position encoding, a
relation aggregator and an MLP. The aggregator is local (a convolution) in stages 1 and 2 and global
(self-attention) in stages 3 and 4; for dense prediction, stage 3 can use window attention.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..layers import (
    LayerNorm2d,
    MapMlp,
    Mlp,
    PatchEmbed,
    PointwiseConv2d,
    conv_bn,
    conv_stem,
    depthwise_conv,
    init_linear_layers,
)
from ..ops.uniformer import GlobalRelationAggregator, LocalRelationAggregator
from .arch import read_arch
from .base import HierarchicalBackbone, Parts
from .blocks import TransformerBlock
from .names import PublishedNames

ATTENTIONS = ("global", "hybrid", "windows")
# for blocks and dense outputs; as published, patch embeddings keep PyTorch's eps of 1e-5
BlockNorm = partial(LayerNorm2d, eps=1e-6)


def patch_embed(in_channels: int, embed_dims: int, patch_size: int = 2) -> PatchEmbed:
    """Build the patch embedding before a stage."""
    return PatchEmbed(in_channels, embed_dims, patch_size, LayerNorm2d)


class LocalBlock(TransformerBlock):
    """Block of position encoding, local relation aggregator and MLP.

    Args:
        embed_dims: number of input and output channels.
        mlp_ratio: ratio of the MLP's hidden channels to `embed_dims`.
        drop_path_rate: stochastic depth rate of the aggregator and the MLP.
        layer_scale: whether both branches have learned factors per channel, which start at 1e-6.
    """

    def __init__(
        self, embed_dims: int, mlp_ratio: int, drop_path_rate: float, layer_scale: bool = False
    ):
        super().__init__(
            embed_dims,
            nn.BatchNorm2d,
            pos_embed=depthwise_conv(embed_dims, 3),
            attn=LocalRelationAggregator(embed_dims),
            mlp=Mlp(embed_dims, embed_dims * mlp_ratio, PointwiseConv2d),
            layer_scale=1e-6 if layer_scale else None,
            drop_path_rate=drop_path_rate,
        )


class GlobalBlock(TransformerBlock):
    """Block of position encoding, self-attention and MLP.

    Args:
        embed_dims: number of input and output channels.
        mlp_ratio: ratio of the MLP's hidden channels to `embed_dims`.
        drop_path_rate: stochastic depth rate of the attention and the MLP.
        layer_scale: whether both branches have learned factors per channel, which start at 1e-6.
        **kwargs: arguments of :class:`GlobalRelationAggregator`.
    """

    def __init__(
        self,
        embed_dims: int,
        mlp_ratio: int,
        drop_path_rate: float,
        layer_scale: bool,
        **kwargs: Any,
    ):
        super().__init__(
            embed_dims,
            BlockNorm,
            pos_embed=depthwise_conv(embed_dims, 3),
            attn=GlobalRelationAggregator(embed_dims, **kwargs),
            mlp=MapMlp(embed_dims, embed_dims * mlp_ratio),
            layer_scale=1e-6 if layer_scale else None,
            drop_path_rate=drop_path_rate,
        )


SIZES = dict(
    embed_dims=(64, 128, 320, 512),
    head_dims=64,
    conv_stem=False,
    layer_scale=False,
    drop_path_rate=0.1,
)
# Li et al., table 3, and the published code for what the paper omits; with token labelling, "small"
# and "base" are small_dim32 and base_dim32. No weight's shape depends on head_dims: the weights of
# small_plus also load into small_plus_dim64, with wrong results. Layer scale is in stages 3 and 4,
# in the code of token labelling in all of them
VARIANTS = {
    "small": dict(SIZES, depths=(3, 4, 8, 3)),
    "small_dim32": dict(SIZES, depths=(3, 4, 8, 3), head_dims=32),
    "small_plus": dict(SIZES, depths=(3, 5, 9, 3), head_dims=32, conv_stem=True),
    "small_plus_dim64": dict(SIZES, depths=(3, 5, 9, 3), conv_stem=True),
    "base": dict(SIZES, depths=(5, 8, 20, 7)),
    "base_dim32": dict(SIZES, depths=(5, 8, 20, 7), head_dims=32),
    "base_ls": dict(SIZES, depths=(5, 8, 20, 7), layer_scale=True),
    "large_ls": dict(
        SIZES, depths=(5, 10, 24, 7), embed_dims=(128, 192, 448, 640), layer_scale="all stages"
    ),
}
# names of https://github.com/Sense-X/UniFormer, which numbers stages from 1
STAGE_RULES = (
    (r"^blocks([12])\.(\d+)\.(conv1|conv2|attn)\.(weight|bias)$", r"blocks\1.\2.attn.\3.\4"),
    (r"^patch_embed1\.(proj\.(?=\d))?", "stem."),
    (r"^patch_embed(\d)\.(proj\.(?=\d))?", r"blocks\1.downsample."),
    *((rf"^blocks{i + 1}\.", f"stages.{i}.") for i in range(4)),
    *((rf"^norm{i + 1}\.", f"norms.{i}.") for i in range(4)),
    (r"^head\.(?=weight|bias)", "head.fc."),
    (r"^aux_head\.", "head.aux_fc."),
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
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    published = PublishedNames(
        rename=(*STAGE_RULES, (r"^norm\.", "final_norm.")), flattened=(r"\.gamma_[12]$",)
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        *,
        attention: str = "global",
        window_size: int = 14,
        **kwargs: Any,
    ):
        sizes = read_arch(arch, VARIANTS)
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {ATTENTIONS}, got {attention!r}")
        channels, overlap = sizes["embed_dims"], sizes["conv_stem"]
        make_downsample = conv_bn if overlap else patch_embed

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            if stage < 2:
                return LocalBlock(channels[stage], 4, rate, sizes["layer_scale"] == "all stages")
            is_global = attention == "global" or (attention == "hybrid" and (index + 1) % 4 == 0)
            return GlobalBlock(
                channels[stage],
                4,
                rate,
                bool(sizes["layer_scale"]),
                head_dims=sizes["head_dims"],
                window_size=None if stage == 3 or is_global else window_size,
            )

        parts = Parts(
            channels,
            sizes["depths"],
            stem=lambda: (
                conv_stem(channels[0], nn.GELU) if overlap else patch_embed(3, channels[0], 4)
            ),
            block=make_block,
            downsample=lambda stage: make_downsample(*channels[stage - 1 : stage + 1]),
            norm=BlockNorm,
            final_norm=nn.BatchNorm2d,
            # as published: convolutions and norms keep PyTorch's default initialisation
            initialise=init_linear_layers,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, **kwargs)

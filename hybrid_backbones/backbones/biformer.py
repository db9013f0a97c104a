"""BiFormer: a vision transformer whose tokens attend to the few most relevant regions.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
https://arxiv.org/abs/2303.08810. The first three stages use bi-level routing attention
(:mod:`hybrid_backbones.ops.biformer`) to 1, 4 and 16 of S×S regions; the last stage uses full
attention.
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
    PatchConv2d,
    PointwiseConv2d,
    conv_bn,
    conv_stem,
    depthwise_conv,
    init_linear_layers,
)
from ..ops.biformer import (
    AttentionLePE,
    AttentionLePE2d,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
)
from .arch import read_arch
from .base import HierarchicalBackbone, Parts
from .blocks import TransformerBlock
from .names import PublishedNames

# number of regions that each region attends to in the first three stages
TOPKS = (1, 4, 16)
HEAD_DIMS = 32
# the last stage has 8 heads for any number of channels
NUM_LAST_HEADS = 8

BlockNorm = partial(LayerNorm2d, eps=1e-6)


def patch_stem(channels: int) -> nn.Sequential:
    """Build 4×4 patches and batch normalisation: ``(B, 3, H, W)`` to ``(B, C, H // 4, W // 4)``."""
    return nn.Sequential(PatchConv2d(3, channels, 4), nn.BatchNorm2d(channels))


def patch_downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a downsampling by 2, rounding down: batch normalisation, then 2×2 patches."""
    return nn.Sequential(nn.BatchNorm2d(in_channels), PatchConv2d(in_channels, out_channels, 2))


SIZES = dict(mlp_ratio=3, overlap=True, pointwise_convs=False, drop_path_rate=0.1)
STL_SIZES = dict(
    embed_dims=(96, 192, 384, 768),
    depths=(2, 2, 6, 2),
    mlp_ratio=4,
    overlap=False,
    drop_path_rate=0.1,
)
# Zhu et al., table 1; stl, with the layout of Swin-T, is from the published code. `overlap`: stem
# and downsampling are overlapping convolutions, with position encoding, or patches without it.
# `pointwise_convs`: the authors' later operators, with 1×1 convolutions for the linear layers and
# padding after the projection. `stl` was published as biformer_stl_nchw and `stl_linear` as
# biformer_stl; neither loads the other's weights.
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
        num_windows: number S of regions per side in the first three stages, at least 4, since
            stage 3 attends to 16 of the S² regions. The publication uses 7 for classification, 16
            for detection and 8 for segmentation, with the same weights.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    channels_last = True
    published = PublishedNames(
        rename=(
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
            (r"^(stages\.\d)\.blocks\.", r"\1."),
            # fc2 is number 3 in tiny, small and base, whose Sequential also has an identity, else 2
            (r"\.mlp\.0\.", ".mlp.fc1."),
            (r"\.mlp\.[23]\.", ".mlp.fc2."),
            (r"^extra_norms\.", "norms."),
            (r"^norm\.", "final_norm."),
            (r"^head\.(?=weight|bias)", "head.fc."),
        )
    )

    def __init__(
        self, arch: str | Mapping[str, Any] = "tiny", *, num_windows: int = 16, **kwargs: Any
    ):
        sizes = read_arch(arch, VARIANTS)
        channels, overlap = sizes["embed_dims"], sizes["overlap"]
        pointwise = sizes["pointwise_convs"]
        make_downsample = conv_bn if overlap else patch_downsample

        def make_attention(stage: int) -> nn.Module:
            dims = channels[stage]
            if stage == 3:
                return (AttentionLePE2d if pointwise else AttentionLePE)(dims, NUM_LAST_HEADS)
            attention = BiLevelRoutingAttention2d if pointwise else BiLevelRoutingAttention
            return attention(dims, dims // HEAD_DIMS, num_windows, TOPKS[stage])

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            dims = channels[stage]
            attn, hidden = make_attention(stage), sizes["mlp_ratio"] * dims
            mlp = Mlp(dims, hidden, PointwiseConv2d) if pointwise else MapMlp(dims, hidden)
            position = depthwise_conv(dims, 3) if overlap else None
            return TransformerBlock(
                dims, BlockNorm, pos_embed=position, attn=attn, mlp=mlp, drop_path_rate=rate
            )

        parts = Parts(
            channels,
            sizes["depths"],
            stem=lambda: conv_stem(channels[0], nn.GELU) if overlap else patch_stem(channels[0]),
            block=make_block,
            downsample=lambda stage: make_downsample(*channels[stage - 1 : stage + 1]),
            norm=BlockNorm,
            final_norm=nn.BatchNorm2d,
            # as published: convolutions keep PyTorch's default initialisation
            initialise=init_linear_layers,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, **kwargs)

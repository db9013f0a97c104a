"""MixFormer: window attention and a depthwise convolution in parallel that gate each other.

Chen et al., "MixFormer: Mixing Features across Windows and Dimensions", CVPR 2022,
https://arxiv.org/abs/2204.02557. The idea is :class:`MixingAttention`; its convolution
connects neighbouring windows, so the windows are not shifted.

The published network takes images whose sides are multiples of 32. Here feature maps with odd sides
are zero-padded before downsampling, so images may have any size; for sizes that the published
network takes, this one computes the same.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import LayerNorm2d, MapMlp, PatchEmbed, init_linear_layers, pad_to_multiple
from ..ops.mixformer import AnyBatchNorm2d, MixingAttention
from .arch import read_arch
from .base import HierarchicalBackbone, Parts
from .blocks import TransformerBlock
from .names import SWIN_RULES, PublishedNames


class MixFormerStem(PatchEmbed):
    """Stem of three convolutions, the first with stride 2, and a 2×2 patch embedding.

    Images are zero-padded at the right and the bottom to multiples of 4 pixels.

    Args:
        embed_dims: number of output channels.
    """

    def __init__(self, embed_dims: int):
        hidden = embed_dims // 2
        super().__init__(hidden, embed_dims, 2, LayerNorm2d)
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, hidden, 3, stride=2, padding=1), AnyBatchNorm2d(hidden), nn.GELU()),
            *(nn.Conv2d(hidden, hidden, 3, padding=1), AnyBatchNorm2d(hidden), nn.GELU()),
            *(nn.Conv2d(hidden, hidden, 3, padding=1), AnyBatchNorm2d(hidden), nn.GELU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` to ``(B, C, H/4, W/4)``, rounding up."""
        return super().forward(self.stem(pad_to_multiple(x, 4)))


class PatchMerging(nn.Module):
    """Patch merging, which halves height and width: ``reduction(norm(x))``.

    Odd sides, which the published network does not take, are zero-padded after the norm.

    Args:
        embed_dims: number of input channels; the result has twice as many.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        self.norm = AnyBatchNorm2d(embed_dims)
        self.reduction = nn.Conv2d(embed_dims, 2 * embed_dims, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, 2C, H/2, W/2)``, rounding up."""
        return self.reduction(pad_to_multiple(self.norm(x), 2))


class MixFormerBlock(TransformerBlock):
    """Transformer block of mixing attention and an MLP.

    Args:
        embed_dims: number of input and output channels.
        num_heads: number of attention heads.
        drop_path_rate: stochastic depth rate of both branches.
    """

    def __init__(self, embed_dims: int, num_heads: int, drop_path_rate: float):
        super().__init__(
            embed_dims,
            LayerNorm2d,
            attn=MixingAttention(embed_dims, num_heads),
            mlp=MapMlp(embed_dims, 4 * embed_dims),
            drop_path_rate=drop_path_rate,
        )


def init_as_published(network: nn.Module) -> None:
    """Initialise linear layers as in Swin, convolutions with Paddle's default.

    That default counts all input channels as fan-in, even in a depthwise convolution.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            init_linear_layers(module)
        elif isinstance(module, nn.Conv2d):
            taps = math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / (taps * module.in_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# https://github.com/PaddlePaddle/PaddleClas
VARIANTS = {
    "b0": dict(embed_dims=24, depths=(1, 2, 6, 6), num_heads=(3, 6, 12, 24), drop_path_rate=0.0),
    "b1": dict(embed_dims=32, depths=(1, 2, 6, 6), num_heads=(2, 4, 8, 16), drop_path_rate=0.0),
    "b2": dict(embed_dims=32, depths=(2, 2, 8, 8), num_heads=(2, 4, 8, 16), drop_path_rate=0.05),
    "b3": dict(embed_dims=48, depths=(2, 2, 8, 6), num_heads=(3, 6, 12, 24), drop_path_rate=0.1),
    "b4": dict(embed_dims=64, depths=(2, 2, 8, 8), num_heads=(4, 8, 16, 32), drop_path_rate=0.2),
    "b5": dict(embed_dims=96, depths=(1, 2, 8, 6), num_heads=(6, 12, 24, 48), drop_path_rate=0.3),
    "b6": dict(embed_dims=96, depths=(2, 4, 16, 12), num_heads=(6, 12, 24, 48), drop_path_rate=0.5),
}


@MODELS.register_module()
class MixFormer(HierarchicalBackbone):
    """MixFormer backbone for images of any size.

    The feature maps have strides 4, 8, 16 and 32; their sides are rounded up. The published
    classifier projects the last feature map before pooling: use ``ProjectedPooling`` as the neck.
    Published Paddle checkpoints load without conversion. The authors' normalisation for dense
    prediction is unpublished; ``out_norm='each'`` uses layer norms, as in Swin.

    Args:
        arch: key of `VARIANTS`, or a dict with the same keys as its rows; the number of
            channels starts at `embed_dims` and doubles with every stage.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    published = PublishedNames(
        rename=(*SWIN_RULES, (r"^last_proj\.", "neck.proj.")),
        computed=(r"\.relative_position_index$",),
    )

    def __init__(self, arch: str | Mapping[str, Any] = "b4", **kwargs: Any):
        sizes = read_arch(arch, VARIANTS)
        channels = [sizes["embed_dims"] * 2**i for i in range(4)]
        parts = Parts(
            channels,
            sizes["depths"],
            stem=lambda: MixFormerStem(channels[0]),
            block=lambda stage, _, rate: MixFormerBlock(
                channels[stage], sizes["num_heads"][stage], rate
            ),
            downsample=lambda stage: PatchMerging(channels[stage - 1]),
            norm=LayerNorm2d,
            final_norm=LayerNorm2d,
            initialise=init_as_published,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, **kwargs)

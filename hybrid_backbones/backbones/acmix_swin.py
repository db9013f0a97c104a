"""ACmix-Swin: a Swin Transformer whose window attention is ACmix.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
https://arxiv.org/abs/2111.14556. The network is Swin (Liu et al., ICCV 2021,
https://arxiv.org/abs/2103.14030); in each block a convolution branch shares query, key and value
with the window attention; the windows are shifted in every second block.

The published network is built for one input size, and its windows must divide every feature map.
This network takes images of any size and computes the same as the published one where both apply.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import LayerNorm2d, MapMlp, PatchEmbed, init_linear_layers, pad_to_multiple
from ..ops.acmix_swin import ACmixWindow
from ..ops.choice import is_exporting
from .arch import read_arch
from .base import HierarchicalBackbone, Parts
from .blocks import TransformerBlock
from .names import SWIN_COMPUTED, SWIN_RULES, PublishedNames


class PaddedPatchEmbed(PatchEmbed):
    """Patch embedding that zero-pads incomplete patches at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, embed_dims, H', W')``, rounding up."""
        return super().forward(pad_to_multiple(x, self.proj.kernel_size[0]))


def gather_patches(x: Tensor) -> Tensor:
    """Concatenate the channels of 2×2 patches: ``(B, C, H, W)`` to ``(B, H', W', 4C)``.

    Odd sides are zero-padded.
    """
    x = pad_to_multiple(x, 2)
    if is_exporting():
        # no tensor of six dimensions, which not all runtimes have
        patches = [x[..., row::2, column::2] for column in range(2) for row in range(2)]
        return torch.cat(patches, 1).permute(0, 2, 3, 1)
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, H', 2, W', 2)
    return x.permute(0, 2, 4, 5, 3, 1).flatten(3)  # the row varies first


class PatchMerging(nn.Module):
    """Patch merging, which halves height and width: ``reduction(norm([x00, x10, x01, x11]))``.

    Args:
        embed_dims: number of input channels; the result has twice as many.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * embed_dims)
        self.reduction = nn.Linear(4 * embed_dims, 2 * embed_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, 2C, H', W')``, rounding up."""
        return self.reduction(self.norm(gather_patches(x))).permute(0, 3, 1, 2)


class ACmixSwinBlock(TransformerBlock):
    """Transformer block of ACmix in windows and an MLP.

    Args:
        embed_dims: number of input and output channels.
        drop_path_rate: stochastic depth rate of both branches.
        **kwargs: arguments of :class:`ACmixWindow`.
    """

    def __init__(self, embed_dims: int, drop_path_rate: float, **kwargs):
        super().__init__(
            embed_dims,
            LayerNorm2d,
            attn=ACmixWindow(embed_dims, **kwargs),
            mlp=MapMlp(embed_dims, 4 * embed_dims),
            drop_path_rate=drop_path_rate,
        )


SIZES = dict(embed_dims=96, num_heads=(3, 6, 12, 24))
# the authors' configurations
VARIANTS = {
    "tiny": dict(SIZES, depths=(2, 2, 6, 2), drop_path_rate=0.2),
    "small": dict(SIZES, depths=(2, 2, 18, 2), drop_path_rate=0.3),
}


@MODELS.register_module()
class ACmixSwin(HierarchicalBackbone):
    """ACmix-Swin backbone for images of any size.

    The feature maps have strides 4, 8, 16 and 32; their sides are rounded up.

    Args:
        arch: key of `VARIANTS`, or a dict with the same keys as its rows; the number of
            channels starts at `embed_dims` and doubles with every stage.
        window_size: side of the attention windows, in positions of the feature map.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    # names of https://github.com/LeapLabTHU/ACmix
    published = PublishedNames(rename=SWIN_RULES, computed=SWIN_COMPUTED)

    def __init__(
        self, arch: str | Mapping[str, Any] = "tiny", *, window_size: int = 7, **kwargs: Any
    ):
        sizes = read_arch(arch, VARIANTS)
        channels = [sizes["embed_dims"] * 2**i for i in range(4)]

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            return ACmixSwinBlock(
                channels[stage],
                rate,
                num_heads=sizes["num_heads"][stage],
                window_size=window_size,
                shift=window_size // 2 if index % 2 else 0,
            )

        parts = Parts(
            channels,
            sizes["depths"],
            stem=lambda: PaddedPatchEmbed(3, channels[0], 4, LayerNorm2d),
            block=make_block,
            downsample=lambda stage: PatchMerging(channels[stage - 1]),
            norm=LayerNorm2d,
            final_norm=LayerNorm2d,
            # as published: convolutions and norms keep PyTorch's default initialisation
            initialise=init_linear_layers,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, **kwargs)

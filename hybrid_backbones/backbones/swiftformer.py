"""SwiftFormer: convolutional stages, each of which ends with one linear-time attention block.

Shaker et al., "SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile
Vision Applications", ICCV 2023, https://arxiv.org/abs/2303.15446. Attention with linear
cost is affordable in every stage, also at stride 4, and one such block per stage is enough.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import DropPath, Mlp, PointwiseConv2d, conv_bn, conv_stem
from ..ops.swiftformer import EfficientAdditiveAttention
from ..recompute import recompute_before_last
from .arch import read_arch
from .base import HierarchicalBackbone, Parts
from .names import PublishedNames

MLP_RATIO = 4


def layer_scale(embed_dims: int, value: float) -> nn.Parameter:
    """Build a learned factor ``(C, 1, 1)`` per channel of a feature map."""
    return nn.Parameter(torch.full((embed_dims, 1, 1), value))


class ConvEncoder(nn.Module):
    """Convolutional block: ``x + s ⊙ pwconv2(GELU(pwconv1(BN(dwconv(x)))))``.

    Args:
        embed_dims: number of input and output channels.
        hidden_dims: number of hidden channels of the MLP.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.dwconv = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.norm = nn.BatchNorm2d(embed_dims)
        self.pwconv1 = PointwiseConv2d(embed_dims, hidden_dims)
        self.act = nn.GELU()
        self.pwconv2 = PointwiseConv2d(hidden_dims, embed_dims)
        self.layer_scale = layer_scale(embed_dims, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        hidden = self.pwconv1(self.norm(self.dwconv(x)))
        branch = recompute_before_last(
            lambda hidden: self.pwconv2(self.act(hidden)), hidden, modules=[self.pwconv2]
        )
        return torch.addcmul(x, self.layer_scale, branch)


class NormedMlp(Mlp):
    """MLP with batch normalisation, at each position: ``fc2(GELU(fc1(BN(x))))``.

    Args:
        embed_dims: number of input and output channels.
        hidden_dims: number of hidden channels.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__(embed_dims, hidden_dims, PointwiseConv2d)
        self.norm1 = nn.BatchNorm2d(embed_dims)

    def expand(self, x: Tensor) -> Tensor:
        """Compute the hidden layer of ``(B, C, H, W)`` before its activation."""
        return super().expand(self.norm1(x))


class SwiftFormerEncoder(nn.Module):
    """Block of convolution, efficient additive attention and MLP, each with a residual connection::

        x = local_representation(x)
        x = x + s1 ⊙ attn(x)
        x = x + s2 ⊙ linear(x)

    The attention has no normalisation before it.

    Args:
        embed_dims: number of input and output channels.
        drop_path_rate: stochastic depth rate of the attention and the MLP branch.
        first_release: whether the attention is that of the first release; see
            :class:`EfficientAdditiveAttention`.
    """

    def __init__(self, embed_dims: int, drop_path_rate: float, first_release: bool):
        super().__init__()
        self.local_representation = ConvEncoder(embed_dims, embed_dims)
        self.attn = EfficientAdditiveAttention(embed_dims, first_release=first_release)
        self.linear = NormedMlp(embed_dims, MLP_RATIO * embed_dims)
        self.drop_path = DropPath(drop_path_rate)
        self.layer_scale_1 = layer_scale(embed_dims, 1e-5)
        self.layer_scale_2 = layer_scale(embed_dims, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        x = self.local_representation(x)
        x = torch.addcmul(x, self.layer_scale_1, self.drop_path(self.attn(x)))
        return torch.addcmul(x, self.layer_scale_2, self.drop_path(self.linear(x)))


def init_as_published(network: nn.Module) -> None:
    """Initialise convolutions and linear layers by truncated normal weights and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# section 4 of the paper and https://github.com/Amshaker/SwiftFormer
VARIANTS = {
    "xs": dict(depths=(3, 3, 6, 4), embed_dims=(48, 56, 112, 220)),
    "s": dict(depths=(3, 3, 9, 6), embed_dims=(48, 64, 168, 224)),
    "l1": dict(depths=(4, 3, 10, 5), embed_dims=(48, 96, 192, 384)),
    "l3": dict(depths=(4, 4, 12, 6), embed_dims=(64, 128, 320, 512)),
}


@MODELS.register_module()
class SwiftFormer(HierarchicalBackbone):
    """SwiftFormer backbone for images of any size.

    The feature maps have strides 4, 8, 16 and 32; their sides are rounded up. The published
    classifier averages two linear layers: use ``PairedLinearHead(average=True)`` as the head. As
    published, stochastic depth applies only to the last block of each stage.

    .. warning:: Weights load into both forms of the attention, but are correct in only one: weights
       that the authors linked before 2023-07-26 and those of transformers need
       ``first_release=True``; later ones and timm's need ``first_release=False``. Names of
       transformers and timm are recognised. See :class:`EfficientAdditiveAttention`.

    Args:
        arch: key of `VARIANTS`, or a dict with the same keys as its rows.
        first_release: whether the attention is that of the first release.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    channels_last = True
    published = PublishedNames(
        rename=(
            # from transformers' names, which begin with "swiftformer." in its classifier
            (r"^(swiftformer\.)?patch_embed\.patch_embedding\.", "patch_embed."),
            (r"^(swiftformer\.)?encoder\.(network\.\d)\.(blocks\.)?", r"\2."),
            (r"\.depth_wise_conv\.", ".dwconv."),
            (r"\.point_wise_conv([12])\.", r".pwconv\1."),
            (r"^patch_embed\.", "stem."),
            (r"^network\.0\.", "stages.0."),
            (r"^network\.2\.", "stages.1."),
            (r"^network\.4\.", "stages.2."),
            (r"^network\.6\.", "stages.3."),
            (r"^network\.1\.", "stages.1.downsample."),
            (r"^network\.3\.", "stages.2.downsample."),
            (r"^network\.5\.", "stages.3.downsample."),
            (r"\.downsample\.proj\.", ".downsample.0."),
            (r"\.downsample\.norm\.", ".downsample.1."),
            (r"^norm0\.", "norms.0."),
            (r"^norm2\.", "norms.1."),
            (r"^norm4\.", "norms.2."),
            (r"^norm6\.", "norms.3."),
            (r"^norm\.", "final_norm."),
            (r"^head\.(weight|bias)$", r"head.fc.\1"),
            (r"^(dist_head|head_dist)\.", "head.paired_fc."),
            # other names that only timm uses
            (r"^(stages\.\d)\.blocks\.", r"\1."),
            (r"\.attn\.proj\.", ".attn.Proj."),
            (r"\.gamma$", ""),
        ),
        settings=(
            # transformers
            (r"\.depth_wise_conv\.", "first_release", True),
            # timm
            (r"stages\.\d\.blocks\.\d", "first_release", False),
        ),
    )

    def __init__(
        self, arch: str | Mapping[str, Any] = "xs", *, first_release: bool = False, **kwargs: Any
    ):
        sizes = read_arch(arch, VARIANTS)
        channels, depths = sizes["embed_dims"], sizes["depths"]

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            if index < depths[stage] - 1:
                return ConvEncoder(channels[stage], MLP_RATIO * channels[stage])
            return SwiftFormerEncoder(channels[stage], rate, first_release)

        parts = Parts(
            channels,
            depths,
            stem=lambda: conv_stem(channels[0], nn.ReLU, activate_output=True),
            block=make_block,
            downsample=lambda stage: conv_bn(*channels[stage - 1 : stage + 1]),
            norm=nn.BatchNorm2d,
            final_norm=nn.BatchNorm2d,
            initialise=init_as_published,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, **kwargs)
        self.first_release = first_release

"""SwiftFormer: convolutional stages that end with one block of linear-time attention each.

Shaker et al., "SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile
Vision Applications", ICCV 2023, https://arxiv.org/abs/2303.15446. The one idea: attention that is
linear in the tokens can be afforded in every stage, also at stride 4, and once a stage is enough.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import DropPath, Mlp, PointwiseConv2d, conv_bn, conv_stem
from ..ops.swiftformer import EfficientAdditiveAttention
from .base import HierarchicalBackbone, drop_path_rates, read_arch

MLP_RATIO = 4


def layer_scale(embed_dims: int, value: float) -> nn.Parameter:
    """Make a factor ``(C, 1, 1)`` of each channel of a map."""
    return nn.Parameter(torch.full((embed_dims, 1, 1), value))


class ConvEncoder(nn.Module):
    """Add a depthwise convolution and an MLP: ``x + s ⊙ pwconv2(GELU(pwconv1(BN(dwconv(x)))))``.

    Args:
        embed_dims: channels of x.
        hidden_dims: channels inside the MLP.
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
        branch = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x)))))
        return torch.addcmul(x, self.layer_scale, branch)


class NormedMlp(Mlp):
    """Compute ``fc2(GELU(fc1(BN(x))))`` over the channels of each position of a map.

    Args:
        embed_dims: channels of x and of the result.
        hidden_dims: channels in between.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__(embed_dims, hidden_dims, PointwiseConv2d)
        self.norm1 = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return super().forward(self.norm1(x))


class SwiftFormerEncoder(nn.Module):
    """Mix neighbours, then all positions, then channels, each as a residual branch::

        x = local_representation(x)
        x = x + s1 ⊙ attn(x)
        x = x + s2 ⊙ linear(x)

    Attention has no normalisation before it.

    Args:
        embed_dims: channels of x.
        drop_path: rate of stochastic depth, of the last two branches.
        first_release: the form of :class:`EfficientAdditiveAttention`.
    """

    def __init__(self, embed_dims: int, drop_path: float, first_release: bool):
        super().__init__()
        self.local_representation = ConvEncoder(embed_dims, embed_dims)
        self.attn = EfficientAdditiveAttention(embed_dims, first_release=first_release)
        self.linear = NormedMlp(embed_dims, MLP_RATIO * embed_dims)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = layer_scale(embed_dims, 1e-5)
        self.layer_scale_2 = layer_scale(embed_dims, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        x = self.local_representation(x)
        x = torch.addcmul(x, self.layer_scale_1, self.drop_path(self.attn(x)))
        return torch.addcmul(x, self.layer_scale_2, self.drop_path(self.linear(x)))


# section 4 of the paper and https://github.com/Amshaker/SwiftFormer
VARIANTS = {
    "xs": dict(depths=(3, 3, 6, 4), embed_dims=(48, 56, 112, 220)),
    "s": dict(depths=(3, 3, 9, 6), embed_dims=(48, 64, 168, 224)),
    "l1": dict(depths=(4, 3, 10, 5), embed_dims=(48, 96, 192, 384)),
    "l3": dict(depths=(4, 4, 12, 6), embed_dims=(64, 128, 320, 512)),
}


@MODELS.register_module()
class SwiftFormer(HierarchicalBackbone):
    """Compute the four feature maps of a SwiftFormer.

    Maps have strides 4, 8, 16 and 32, for images of any size, which are rounded up. The published
    classifier predicts by the mean of two linear layers, ``PairedLinearHead(average=True)``.

    .. warning:: Weights load into either form of the attention, but are right in one: those that
       the authors linked before 2023-07-26 need ``first_release=True``, later ones and timm's do
       not; see :class:`EfficientAdditiveAttention`.

    Args:
        arch: a key of `VARIANTS`, or a dict with the keys of its rows.
        first_release: whether attention has the form of the first release.
        drop_path_rate: of stochastic depth in the last block, rising linearly from 0 in the first;
            as published, only the last block of each stage has it.
        out_norm: ``'each'`` normalises each output, for dense prediction, ``'final'`` the last, for
            a classifier, ``'none'`` none.
        **kwargs: settings of :class:`HierarchicalBackbone`.
    """

    channels_last = True
    rename_rules = (
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
        # what else timm calls otherwise
        (r"^(stages\.\d)\.blocks\.", r"\1."),
        (r"\.attn\.proj\.", ".attn.Proj."),
        (r"\.gamma$", ""),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "xs",
        *,
        first_release: bool = False,
        drop_path_rate: float = 0.0,
        out_norm: str = "each",
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = read_arch(arch, VARIANTS)
        self.channels = tuple(sizes["embed_dims"])
        self.stem = conv_stem(self.channels[0], nn.ReLU, activate_output=True)
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, sizes["depths"])):
            channels = self.channels[i]
            blocks = [ConvEncoder(channels, MLP_RATIO * channels) for _ in rates[:-1]]
            blocks.append(SwiftFormerEncoder(channels, rates[-1], first_release))
            downsample = conv_bn(self.channels[i - 1], channels) if i else None
            self.stages.append(self.make_stage(i, blocks, downsample))
        self.add_norms(out_norm, nn.BatchNorm2d, nn.BatchNorm2d)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.train()

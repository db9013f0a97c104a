"""Parts that several networks share: stems, patch embedding, channel MLP, tokens of maps.

Stochastic depth is torchvision's, per sample; normalisation over the channels of a map is
torchvision's `LayerNorm2d`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

__all__ = [
    "DropPath",
    "LayerNorm2d",
    "Mlp",
    "PatchEmbed",
    "PointwiseConv2d",
    "conv_bn",
    "conv_stem",
    "join_groups",
    "pad_to_multiple",
    "split_groups",
    "to_maps",
    "to_tokens",
]

# of whole residual branches, by sample
DropPath = partial(StochasticDepth, mode="row")
PointwiseConv2d = partial(nn.Conv2d, kernel_size=1)


class Mlp(nn.Module):
    """Compute ``fc2(GELU(fc1(x)))`` over the channels of each position.

    Args:
        embed_dims: channels of x and of the result.
        hidden_dims: channels in between.
        linear: makes a layer from two numbers of channels: `nn.Linear` for ``(..., C)``,
            `PointwiseConv2d` for ``(B, C, H, W)``.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        linear: Callable[[int, int], nn.Module] = nn.Linear,
    ):
        super().__init__()
        self.fc1 = linear(embed_dims, hidden_dims)
        self.fc2 = linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map x to a tensor of its shape."""
        return self.fc2(F.gelu(self.fc1(x)))


def conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    """Halve a map, rounding up: 3×3 convolution of stride 2, then batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.BatchNorm2d(out_channels)
    )


def conv_stem(
    channels: int, activation: type[nn.Module], *, activate_output: bool = False
) -> nn.Sequential:
    """Map images ``(B, 3, H, W)`` to ``(B, channels, H/4, W/4)``, rounding up, by two `conv_bn`."""
    last = [activation()] if activate_output else []
    return nn.Sequential(
        *conv_bn(3, channels // 2), activation(), *conv_bn(channels // 2, channels), *last
    )


class PatchEmbed(nn.Module):
    """Project patches that do not overlap, then normalise: ``norm(proj(x))``.

    What is left over at the right and the bottom is cut off; a map smaller than one patch is
    extended by zeros.

    Args:
        in_channels: channels of x.
        embed_dims: channels of the result.
        patch_size: side of a patch, in pixels of x.
        norm: makes the normalisation from a number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        norm: Callable[[int], nn.Module],
    ):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.norm = norm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, embed_dims, H // patch, W // patch)``."""
        patch, (height, width) = self.proj.kernel_size[0], x.shape[2:]
        if height < patch or width < patch:
            x = F.pad(x, (0, max(patch - width, 0), 0, max(patch - height, 0)))
        return self.norm(self.proj(x))


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Extend ``(B, C, H, W)`` by zeros at the right and the bottom, to multiples of `divisor`."""
    height, width = x.shape[2:]
    below, right = -height % divisor, -width % divisor
    return F.pad(x, (0, right, 0, below)) if below or right else x


# The functions below move the channels of a map before they split or join any side. A view of what
# was moved already gives a batch of one a stride that PyTorch reads as channels-last memory in one
# place and as contiguous memory in another: its batch normalisation on a CPU then computes wrong
# gradients. The gradients of these functions are formed in the same order.


def to_tokens(maps: Tensor) -> Tensor:
    """Turn maps ``(..., C, H, W)`` into tokens ``(..., H·W, C)``."""
    return maps.movedim(-3, -1).flatten(-3, -2)


def to_maps(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Turn tokens ``(..., H·W, C)`` into maps ``(..., C, H, W)`` of the given H and W."""
    return tokens.unflatten(-2, size).movedim(-1, -3)


def split_groups(maps: Tensor, number: int) -> Tensor:
    """Turn maps ``(B, h·d, H, W)`` into maps of a number of heads ``(B, h, d, H, W)``."""
    return maps.permute(0, 2, 3, 1).unflatten(3, (number, -1)).permute(0, 3, 4, 1, 2)


def join_groups(maps: Tensor) -> Tensor:
    """Undo :func:`split_groups`."""
    return maps.permute(0, 3, 4, 1, 2).flatten(3).permute(0, 3, 1, 2)

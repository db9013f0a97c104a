"""Layers shared by several networks: stems, patch embedding, channel MLP and layout changes.

Stochastic depth (per sample) and layer normalisation of feature maps are torchvision's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import symbolic_shapes

from .mlp import MapMlp, Mlp

if TYPE_CHECKING:
    from torchvision.models.convnext import LayerNorm2d
    from torchvision.ops import StochasticDepth

    DropPath = partial(StochasticDepth, mode="row")

__all__ = [
    "DropPath",
    "LayerNorm2d",
    "MapMlp",
    "Mlp",
    "PatchConv2d",
    "PatchEmbed",
    "PointwiseConv2d",
    "RelativePositionBias",
    "are_known",
    "at_least",
    "ceil_div",
    "conv_bn",
    "conv_stem",
    "depthwise_conv",
    "init_linear_layers",
    "join_groups",
    "join_heads",
    "pad_end",
    "pad_to_multiple",
    "relative_position_index",
    "require_divides",
    "require_odd",
    "split_groups",
    "split_heads",
    "to_maps",
    "to_tokens",
]

PointwiseConv2d = partial(nn.Conv2d, kernel_size=1)


def __getattr__(name: str) -> Any:
    """Import a layer of torchvision on first use: operators run without that package."""
    if name == "DropPath":
        from torchvision.ops import StochasticDepth

        # "row" drops the residual branch of whole samples
        return partial(StochasticDepth, mode="row")
    if name == "LayerNorm2d":
        from torchvision.models.convnext import LayerNorm2d

        return LayerNorm2d
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def require_divides(**sizes: int) -> None:
    """Validate that the first of two named sizes divides the second: ``num_heads=2, channels=8``.

    Raises:
        ValueError: if it does not, or is not positive.
    """
    (name, divisor), (whole, size) = sizes.items()
    if divisor < 1 or size % divisor:
        raise ValueError(f"{name} must divide {whole}, got {name}={divisor}, {whole}={size}")


def require_odd(**sizes: int) -> None:
    """Validate that named sizes are odd and positive.

    Raises:
        ValueError: if one is not.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f"{name} must be odd and positive, got {name}={size}")


_has_static_value = getattr(symbolic_shapes, "has_static_value", None)


def are_known(*sizes: Any) -> bool:
    """Return whether sizes are integers, not variables of a graph that takes inputs of any size.

    They are variables in `torch.export` with dynamic shapes, in `torch.jit.trace`, and in
    `torch.compile` once it has seen two sizes. Code that branches on such a size would fix the
    branch in the graph: without a warning, or in `torch.compile` with another compilation for the
    other branch. An expression of variables that is the same number for all of them is known.
    """
    # a size that Dynamo traces says that it is an `int`; PyTorch 2.6 cannot ask for more
    if torch.compiler.is_dynamo_compiling() and _has_static_value is not None:
        return all(_has_static_value(size) for size in sizes)
    return all(isinstance(size, int) or _is_number(size) for size in sizes)


def _is_number(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is not None


def at_least(size: Any, bound: int) -> Any:
    """Return the larger of a size, which may be a variable of a graph, and a bound."""
    if isinstance(size, Tensor):
        return size.clamp(min=bound)
    if are_known(size) or torch.compiler.is_dynamo_compiling():
        return max(size, bound)
    return torch.sym_max(size, bound)


def ceil_div(size: Any, divisor: Any) -> Any:
    """Divide a size and round up, without negative numbers, which ONNX would round to zero."""
    return (size + divisor - 1) // divisor


def init_linear_layers(network: nn.Module) -> None:
    """Initialise linear layers by truncated normal weights and zero biases, as in Swin."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 3×3 convolution of stride 2 followed by batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.BatchNorm2d(out_channels)
    )


def conv_stem(
    channels: int, activation: type[nn.Module], *, activate_output: bool = False
) -> nn.Sequential:
    """Build a stem of two `conv_bn`: ``(B, 3, H, W)`` to ``(B, channels, ⌈H/4⌉, ⌈W/4⌉)``."""
    last = [activation()] if activate_output else []
    return nn.Sequential(
        *conv_bn(3, channels // 2), activation(), *conv_bn(channels // 2, channels), *last
    )


def depthwise_conv(channels: int, kernel_size: int) -> nn.Conv2d:
    """Build a depthwise convolution with an odd kernel that keeps the size of maps."""
    return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)


class PatchConv2d(nn.Conv2d):
    """Convolution of non-overlapping patches.

    Incomplete patches at the right and the bottom are cropped; a side smaller than one patch is
    zero-padded.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int):
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H // patch, W // patch)``."""
        below, right = (at_least(side, self.kernel_size[0]) - side for side in x.shape[2:])
        return super().forward(pad_end(x, below, right))


class PatchEmbed(nn.Module):
    """Embedding of non-overlapping patches, ``norm(proj(x))``; see :class:`PatchConv2d`.

    Args:
        in_channels: number of input channels.
        embed_dims: number of output channels.
        patch_size: side of a patch, in input pixels.
        norm: constructor of the normalisation layer from the number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        norm: Callable[[int], nn.Module],
    ):
        super().__init__()
        self.proj = PatchConv2d(in_channels, embed_dims, patch_size)
        self.norm = norm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, embed_dims, H // patch, W // patch)``."""
        return self.norm(self.proj(x))


def relative_position_index(window_size: int) -> Tensor:
    """Return the row of the bias table for each pair of positions in a square window.

    Returns:
        Indices ``(T, T)``: at ``[i, j]``, with dy rows and dx columns from j to i, it is
        ``(dy + window_size - 1) * (2 * window_size - 1) + dx + window_size - 1``.
    """
    steps = torch.arange(window_size)
    rows, columns = steps.repeat_interleave(window_size), steps.repeat(window_size)
    down = rows[:, None] - rows + window_size - 1
    right = columns[:, None] - columns + window_size - 1
    return down * (2 * window_size - 1) + right


class RelativePositionBias(nn.Module):
    """Base of window attention with a learned bias of the logits per relative position and head.

    Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030.

    Args:
        window_size: side of the square windows, in positions.
        num_heads: number of attention heads h.

    Raises:
        ValueError: if `window_size` is not positive.
    """

    relative_position_index: Tensor

    def __init__(self, window_size: int, num_heads: int):
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size must be positive, got {window_size=}")
        self.window_size = window_size
        self.num_heads = num_heads
        table = torch.empty((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        index = relative_position_index(window_size)
        self.register_buffer("relative_position_index", index, persistent=False)

    def _apply(self, *args: Any, **kwargs: Any) -> "RelativePositionBias":
        was_meta = self.relative_position_index.is_meta
        super()._apply(*args, **kwargs)
        if was_meta and not self.relative_position_index.is_meta:
            # `to_empty` leaves to the state dict what it does not hold
            self.relative_position_index.copy_(relative_position_index(self.window_size))
        return self

    def relative_position_bias(self) -> Tensor:
        """Return the bias of the logits ``(h, T, T)`` for ``T = window_size²`` positions."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Zero-pad ``(B, C, H, W)`` at the right and the bottom to multiples of `divisor`."""
    below, right = (ceil_div(side, divisor) * divisor - side for side in x.shape[2:])
    return pad_end(x, below, right)


def pad_end(x: Tensor, below: int, right: int) -> Tensor:
    """Zero-pad ``(B, C, H, W)`` at the bottom and the right."""
    if are_known(below, right) and not (below or right):
        return x
    return F.pad(x, (0, right, 0, below))


# the functions below split and merge dimensions only while the channels are last, in the backward
# pass too. A view of a permuted map would give a batch of one ambiguous strides, which PyTorch
# reads as channels-last memory in one place and as contiguous memory in another: its CPU batch
# normalisation then computes wrong gradients.


def to_tokens(maps: Tensor) -> Tensor:
    """Reshape feature maps ``(..., C, H, W)`` to tokens ``(..., H·W, C)``."""
    return maps.movedim(-3, -1).flatten(-3, -2)


def to_maps(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Reshape tokens ``(..., H·W, C)`` to feature maps ``(..., C, H, W)`` of size ``(H, W)``."""
    return tokens.unflatten(-2, size).movedim(-1, -3)


def split_groups(maps: Tensor, number: int) -> Tensor:
    """Split the channels of ``(B, h·d, H, W)`` into h groups, ``(B, h, d, H, W)``."""
    return maps.permute(0, 2, 3, 1).unflatten(3, (number, -1)).permute(0, 3, 4, 1, 2)


def join_groups(maps: Tensor) -> Tensor:
    """Invert :func:`split_groups`."""
    return maps.permute(0, 3, 4, 1, 2).flatten(3).permute(0, 3, 1, 2)


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Split the channels of tokens ``(..., N, h·d)`` into h heads, ``(..., h, N, d)``."""
    return tokens.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


def join_heads(heads: Tensor) -> Tensor:
    """Invert :func:`split_heads`."""
    return heads.transpose(-2, -3).flatten(-2)

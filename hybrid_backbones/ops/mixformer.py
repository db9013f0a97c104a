"""Mixing attention: parallel window attention and depthwise convolution that gate each other.

Chen et al., "MixFormer: Mixing Features across Windows and Dimensions", CVPR 2022,
https://arxiv.org/abs/2204.02557. The one idea: window attention weights positions but not channels,
within windows; a depthwise convolution weights channels but not positions, across windows. Both run
in parallel and complement each other: the convolution gates the channels of the attention, the
attention gates the positions of the convolution.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    PointwiseConv2d,
    RelativePositionBias,
    depthwise_conv,
    pad_to_multiple,
    require_odd,
)
from ..recompute import recompute_before_last
from .window_attention import shifted_window_attention
from .windows import crop


def channel_gated_attention(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, bias: Tensor, window_size: int
) -> Tensor:
    """Compute window attention over values that are gated per channel.

    For each head and window, ``out = softmax(query · keyᵀ / √d + bias) · (sigmoid(gate) ⊙ value)``.

    Args:
        query: queries ``(B, C, H, W)``, channels head-major.
        key: keys ``(B, C, H, W)``.
        value: values ``(B, C, H, W)``.
        gate: channel gate ``(B, C, 1, 1)`` before the sigmoid.
        bias: relative position bias ``(h, T, T)`` for the ``T = window_size²`` positions of a
            window, row by row.
        window_size: side of the windows, in positions. They start at the upper left; windows that
            exceed the map at the right or the bottom are cropped to it.

    Returns:
        Attention output ``(B, C, H, W)``.
    """
    return shifted_window_attention(query, key, value * gate.sigmoid(), bias, window_size)


def position_gated_map(x: Tensor, gate: Tensor) -> Tensor:
    """Gate a feature map per position, ``sigmoid(gate) ⊙ x``.

    Args:
        x: feature map ``(B, C, H, W)``.
        gate: position gate ``(B, 1, H, W)`` before the sigmoid.

    Returns:
        Gated feature map ``(B, C, H, W)``.
    """
    return x * gate.sigmoid()


class AnyBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that uses running statistics if each channel has a single value.

    A single value has no variance, and PyTorch raises an error in training, e.g. for pooled
    features with one image per GPU. The published framework returns such values unchanged; then
    weight and bias would get no gradient, which distributed training does not support.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def _interaction(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """Build the layers that compute the gate of one branch from the features of the other."""
    return nn.Sequential(
        PointwiseConv2d(in_channels, hidden_channels),
        AnyBatchNorm2d(hidden_channels),
        nn.GELU(),
        PointwiseConv2d(hidden_channels, out_channels),
    )


class MixingAttention(RelativePositionBias):
    """Fusion of window attention and a depthwise convolution that gate each other::

        a, u = LN(proj_attn(x)), GELU(BN(dwconv(LN(proj_cnn(x)))))
        o = channel_gated_attention(*qkv(a), gate=channel_interaction(mean(u)))
        m = BN(position_gated_map(projection(u), gate=spatial_interaction(o)))
        out = proj([LN(o), m])

    The windows tile the map from the upper left; the map is zero-padded at the right and the bottom
    to whole windows. As published, the padding is projected too and enters the softmax, the
    convolution, the mean and the batch statistics.

    State dict names are those of https://github.com/PaddlePaddle/PaddleClas.

    Args:
        embed_dims: number C of input and output channels, even and at least 16.
        num_heads: number of attention heads h; must divide ``embed_dims / 2``.
        window_size: side of the windows, in positions.
        kernel_size: kernel side of the depthwise convolution, odd.

    Raises:
        ValueError: if a setting violates a constraint above.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, window_size: int = 7, *, kernel_size: int = 3
    ):
        if embed_dims < 16 or embed_dims % 2:
            raise ValueError(f"embed_dims must be even and at least 16, got {embed_dims=}")
        half = embed_dims // 2
        if num_heads < 1 or half % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dims / 2, got {num_heads=}, {embed_dims=}"
            )
        require_odd(kernel_size=kernel_size)
        super().__init__(window_size, num_heads)
        self.proj_attn = nn.Linear(embed_dims, half)
        self.proj_attn_norm = nn.LayerNorm(half)
        self.proj_cnn = nn.Linear(embed_dims, embed_dims)
        self.proj_cnn_norm = nn.LayerNorm(embed_dims)
        self.dwconv3x3 = nn.Sequential(
            depthwise_conv(embed_dims, kernel_size),
            AnyBatchNorm2d(embed_dims),
            nn.GELU(),
        )
        self.channel_interaction = _interaction(embed_dims, embed_dims // 8, half)
        self.projection = PointwiseConv2d(embed_dims, half)
        self.conv_norm = AnyBatchNorm2d(half)
        self.qkv = nn.Linear(half, 3 * half)
        self.spatial_interaction = _interaction(half, embed_dims // 16, 1)
        self.attn_norm = nn.LayerNorm(half)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        height, width = x.shape[2:]
        # tokens: (B, H, W, C), completed to whole windows
        tokens = pad_to_multiple(x, self.window_size).permute(0, 2, 3, 1)
        convolve, norm, _ = self.dwconv3x3
        local = recompute_before_last(
            self._convolve, self.proj_cnn(tokens), modules=[self.proj_cnn_norm, convolve]
        )
        projected, mean = recompute_before_last(
            self._project, local, modules=[norm, self.projection]
        )
        attended = self._attend(self.proj_attn(tokens), self.channel_interaction(mean))
        position_gate = self.spatial_interaction(attended)
        fuse = partial(self._fuse, size=(height, width))
        maps = attended, projected, position_gate
        modules = self.conv_norm, self.attn_norm, self.proj
        return recompute_before_last(fuse, *maps, modules=modules)

    def _convolve(self, tokens: Tensor) -> Tensor:
        """Convolve normalised tokens ``(B, H, W, C)`` as a map ``(B, C, H, W)``."""
        return self.dwconv3x3[0](self.proj_cnn_norm(tokens).permute(0, 3, 1, 2))

    def _project(self, local: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise and activate a convolved map; return its projection, and its mean."""
        _, norm, activation = self.dwconv3x3
        local = activation(norm(local))
        mean = local.mean((2, 3), keepdim=True)
        return self.projection(local), mean

    def _attend(self, tokens: Tensor, gate: Tensor) -> Tensor:
        """Compute gated attention of tokens ``(B, H, W, C / 2)`` as a map ``(B, C / 2, H, W)``."""
        qkv = recompute_before_last(
            lambda tokens: self.qkv(self.proj_attn_norm(tokens)),
            tokens,
            modules=[self.proj_attn_norm, self.qkv],
        )
        query, key, value = qkv.permute(0, 3, 1, 2).chunk(3, 1)
        bias = self.relative_position_bias()
        return channel_gated_attention(query, key, value, gate, bias, self.window_size)

    def _fuse(
        self, attended: Tensor, projected: Tensor, position_gate: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Gate the projected map, and project both branches, cropped to the size of the input."""
        local = self.conv_norm(position_gated_map(projected, position_gate))
        halves = self.attn_norm(attended.permute(0, 2, 3, 1)), local.permute(0, 2, 3, 1)
        out = self.proj(crop(torch.cat(halves, -1), size))
        return out.permute(0, 3, 1, 2)

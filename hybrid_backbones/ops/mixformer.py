"""Mixing attention: window attention and a depthwise convolution side by side, gating one another.

Chen et al., "MixFormer: Mixing Features across Windows and Dimensions", CVPR 2022,
https://arxiv.org/abs/2204.02557. The one idea: attention weights positions but not channels and
ends at the windows; a depthwise convolution weights channels but not positions and crosses them. So
both run in parallel, and each gives the other what it lacks: the convolution a gate of each
channel, the attention a gate of each position.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import PointwiseConv2d, pad_to_multiple
from .relative_position import relative_position_bias, relative_position_index
from .window_attention import shifted_window_attention


def channel_gated_attention(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, bias: Tensor, window_size: int
) -> Tensor:
    """Relate the positions of each window, their values weighted by channel.

    For each head and window, ``out = softmax(query · keyᵀ / √d + bias) · (sigmoid(gate) ⊙ value)``.

    Args:
        query: ``(B, C, H, W)``, channels head-major.
        key: ``(B, C, H, W)``.
        value: ``(B, C, H, W)``.
        gate: ``(B, C, 1, 1)``, before the sigmoid.
        bias: ``(h, N, N)`` for the ``N = window_size²`` positions of a window, in rows.
        window_size: side of the windows, which begin at the upper left; the map's other borders cut
            them, and what lies outside takes no part.

    Returns:
        ``(B, C, H, W)``.
    """
    return shifted_window_attention(query, key, value * gate.sigmoid(), bias, window_size)


def position_gated_map(x: Tensor, gate: Tensor) -> Tensor:
    """Compute ``sigmoid(gate) ⊙ x``.

    Args:
        x: ``(B, C, H, W)``.
        gate: ``(B, 1, H, W)``, before the sigmoid.

    Returns:
        ``(B, C, H, W)``.
    """
    return x * gate.sigmoid()


class AnyBatchNorm2d(nn.BatchNorm2d):
    """Normalise over batch and positions, by running statistics where that is a single value.

    One value has no variance, and PyTorch refuses to train on it: the mean of a map of one image,
    as on a GPU with one image a step. The published framework passes such values on unchanged; then
    weight and bias would get no gradient, which distributed training does not take.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def _interaction(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """Make what turns the map of one branch into the gate of the other."""
    return nn.Sequential(
        PointwiseConv2d(in_channels, hidden_channels),
        AnyBatchNorm2d(hidden_channels),
        nn.GELU(),
        PointwiseConv2d(hidden_channels, out_channels),
    )


class MixingAttention(nn.Module):
    """Mix window attention and a depthwise convolution::

        a, u = LN(proj_attn(x)), GELU(BN(dwconv(LN(proj_cnn(x)))))
        o = channel_gated_attention(*qkv(a), gate=channel_interaction(mean(u)))
        n = BN(position_gated_map(projection(u), gate=spatial_interaction(o)))
        out = proj([LN(o), n])

    The windows tile the map from the upper left, and zeros at the right and the bottom complete the
    last ones. As published, this padding is projected like all else: it takes part in the softmax,
    in the convolution, in the mean and in batch statistics. With `mask_padding` only the windows
    are padded, and there the softmax leaves it out; all else sees the map alone, whose border is
    that of the convolution. Where the windows fit, there is no difference. The published weights
    were trained without it.

    Published in https://github.com/PaddlePaddle/PaddleClas, whose entry names these are.

    Args:
        embed_dims: C, channels of x and of the result, even and at least 16.
        num_heads: h, a divisor of embed_dims / 2.
        window_size: side of the windows, in positions.
        kernel_size: of the depthwise convolution, odd.
        mask_padding: attend, convolve and gate as if there were no padding.

    Raises:
        ValueError: for settings other than these.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int = 7,
        *,
        kernel_size: int = 3,
        mask_padding: bool = False,
    ):
        super().__init__()
        if embed_dims < 16 or embed_dims % 2:
            raise ValueError(f"embed_dims must be even and at least 16, got {embed_dims=}")
        half = embed_dims // 2
        if num_heads < 1 or half % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dims / 2, got {num_heads=}, {embed_dims=}"
            )
        if window_size < 1:
            raise ValueError(f"window_size must be positive, got {window_size=}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size=}")
        self.window_size = window_size
        self.mask_padding = mask_padding
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = relative_position_index((window_size, window_size))
        self.register_buffer("relative_position_index", index, persistent=False)
        self.proj_attn = nn.Linear(embed_dims, half)
        self.proj_attn_norm = nn.LayerNorm(half)
        self.proj_cnn = nn.Linear(embed_dims, embed_dims)
        self.proj_cnn_norm = nn.LayerNorm(embed_dims)
        self.dwconv3x3 = nn.Sequential(
            nn.Conv2d(
                embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims
            ),
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
        """Map ``(B, C, H, W)`` to the same shape."""
        height, width = x.shape[2:]
        if not self.mask_padding:
            x = pad_to_multiple(x, self.window_size)
        tokens = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        local = self.proj_cnn_norm(self.proj_cnn(tokens)).permute(0, 3, 1, 2)
        local = self.dwconv3x3(local)
        channel_gate = self.channel_interaction(local.mean((2, 3), keepdim=True))
        attended = self._attend(self.proj_attn_norm(self.proj_attn(tokens)), channel_gate)
        position_gate = self.spatial_interaction(attended)
        local = self.conv_norm(position_gated_map(self.projection(local), position_gate))
        halves = self.attn_norm(attended.permute(0, 2, 3, 1)), local.permute(0, 2, 3, 1)
        out = self.proj(torch.cat(halves, -1)[:, :height, :width])
        return out.permute(0, 3, 1, 2)

    def _attend(self, tokens: Tensor, gate: Tensor) -> Tensor:
        """Map tokens ``(B, H, W, C / 2)`` to a map ``(B, C / 2, H, W)``."""
        query, key, value = self.qkv(tokens).permute(0, 3, 1, 2).chunk(3, 1)
        bias = relative_position_bias(
            self.relative_position_bias_table, self.relative_position_index
        )
        return channel_gated_attention(query, key, value, gate, bias, self.window_size)

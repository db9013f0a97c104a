"""ACmix with Swin's attention: shifted windows and convolution that share their projections.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
https://arxiv.org/abs/2111.14556; windows: Liu et al., "Swin Transformer", ICCV 2021,
https://arxiv.org/abs/2103.14030. The one idea is ACmix's: a light convolution branch reuses the
query, key and value of the attention. Here it also connects the windows within one block.
"""

import torch
from torch import Tensor, nn

from ..layers import PointwiseConv2d, RelativePositionBias, require_divides
from .acmix import ShiftConvolution, acmix_convolution
from .window_attention import roll, shift_within, shifted_window_attention


class ACmixWindow(RelativePositionBias):
    """Weighted sum of shifted-window attention and convolution from shared projections::

        q, k, v = qkv(x)
        out = rate1 · proj(shifted_window_attention(q, k, v))
            + rate2 · acmix_convolution(q, k, v, fc, dep_conv)

    As published, the convolution runs on the map rolled by the shift: it connects opposite borders
    of the map, and its zero padding lies before row and column `shift`. A map whose height or width
    is at most one window is not shifted.

    State dict names are those of https://github.com/LeapLabTHU/ACmix, folder Swin-Transformer.

    Args:
        embed_dims: number of input and output channels.
        num_heads: number of attention heads h; must divide `embed_dims`.
        window_size: side of the windows, in positions.
        shift: shift of the windows, in positions, from 0 to ``window_size - 1``.

    Raises:
        ValueError: if a setting violates a constraint above.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int = 7, shift: int = 0):
        require_divides(num_heads=num_heads, embed_dims=embed_dims)
        super().__init__(window_size, num_heads)
        if not 0 <= shift < window_size:
            raise ValueError(f"shift must be from 0 to {window_size=} - 1, got {shift=}")
        self.shift = shift
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.fc = PointwiseConv2d(3 * num_heads, 9)
        self.dep_conv = ShiftConvolution(embed_dims, 3)
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        shift = shift_within(x.shape[2:], self.window_size, self.shift)
        qkv = self.qkv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, 3C, H, W)
        query, key, value = qkv.chunk(3, 1)
        bias = self.relative_position_bias()
        attention = shifted_window_attention(query, key, value, bias, self.window_size, shift)
        attention = self.proj(attention.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        convolution = acmix_convolution(
            roll(qkv, -shift),
            self.fc.weight.flatten(1),
            self.dep_conv.weight,
            self.num_heads,
            mixing_bias=self.fc.bias,
        )
        # under autocast the branches are in half precision, the rates are in float32
        rate1, rate2 = self.rate1.to(attention.dtype), self.rate2.to(convolution.dtype)
        return rate1 * attention + rate2 * roll(convolution, shift)

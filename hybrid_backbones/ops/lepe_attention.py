"""Full attention with locally-enhanced positional encoding (LePE), BiFormer's last-stage operator.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
https://arxiv.org/abs/2303.08810. The one idea is from Dong et al., "CSWin Transformer", CVPR 2022:
a depthwise convolution parallel to the attention encodes positions.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import PointwiseConv2d, to_maps, to_tokens


def full_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Compute multi-head attention to all tokens, ``softmax(query keyᵀ / √d) value`` per head.

    Args:
        query: queries ``(B, N, C)``, channels head-major.
        key: keys ``(B, M, C)``.
        value: values ``(B, M, C)``.
        num_heads: number of attention heads h; must divide C.

    Returns:
        Attention output ``(B, N, C)``.
    """
    query, key, value = (
        x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key, value)
    )  # (B, h, N, d)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _LePEAttention(nn.Module):
    """Projections and positional convolution common to both published forms."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int = 8,
        *,
        lepe_kernel_size: int = 5,
        linear: Callable[..., nn.Module],
    ):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims, got {num_heads=}, {embed_dims=}")
        if lepe_kernel_size < 1 or lepe_kernel_size % 2 == 0:
            raise ValueError(f"lepe_kernel_size must be odd and positive, got {lepe_kernel_size=}")
        self.num_heads = num_heads
        self.qkv = linear(embed_dims, 3 * embed_dims, bias=False)
        self.proj = linear(embed_dims, embed_dims)
        self.lepe = nn.Conv2d(
            embed_dims,
            embed_dims,
            lepe_kernel_size,
            padding=lepe_kernel_size // 2,
            groups=embed_dims,
        )


class AttentionLePE(_LePEAttention):
    """Attention to all tokens plus a depthwise convolution of the input::

        out = proj(full_attention(qkv(x)) + lepe(x))

    State dict names are those of https://github.com/rayleizhu/BiFormer, where the convolution also
    takes the input rather than the values.

    Args:
        embed_dims: number C of input and output channels.
        num_heads: number of attention heads h; must divide `embed_dims`.
        lepe_kernel_size: kernel side of the convolution, odd.

    Raises:
        ValueError: if a setting violates a constraint above.
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, **kwargs):
        super().__init__(embed_dims, num_heads, linear=nn.Linear, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        out = full_attention(*self.qkv(to_tokens(x)).chunk(3, -1), self.num_heads)
        return to_maps(self.proj(out + to_tokens(self.lepe(x))), x.shape[2:])


class AttentionLePE2d(_LePEAttention):
    """Attention to all tokens plus a depthwise convolution of the values::

        q, k, v = qkv(x)
        out = proj(full_attention(q, k, v) + lepe(v))

    The refactored published form, with 1×1 convolutions as projections. State dict names are as
    published; the arguments are those of :class:`AttentionLePE`.
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, **kwargs):
        super().__init__(embed_dims, num_heads, linear=PointwiseConv2d, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        query, key, value = self.qkv(x).chunk(3, 1)
        out = full_attention(*map(to_tokens, (query, key, value)), self.num_heads)
        return self.proj(to_maps(out, x.shape[2:]) + self.lepe(value))

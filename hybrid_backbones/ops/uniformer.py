"""Relation aggregators: UniFormer's token mixing, local at high and global at low resolution.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450. The one idea: both aggregators compute ``mix(value(x))``, followed
by a projection. The local affinity is a learned parameter per relative offset (a depthwise
convolution), the global affinity is the similarity of tokens (self-attention).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import PointwiseConv2d
from .windows import join_windows, partition_windows


def count_heads(embed_dims: int, head_dims: int) -> int:
    """Return the number of heads of `head_dims` channels in `embed_dims` channels.

    Raises:
        ValueError: if `head_dims` does not divide `embed_dims`.
    """
    if head_dims < 1 or embed_dims % head_dims:
        raise ValueError(f"head_dims must divide embed_dims, got {head_dims=}, {embed_dims=}")
    return embed_dims // head_dims


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split concatenated ``(B, N, 3C)`` into query, key and value, each ``(B, h, N, d)``."""
    query, key, value = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def multi_head_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Compute multi-head self-attention.

    For each head, ``out = softmax(query · keyᵀ / √d) · value``.

    Args:
        qkv: concatenated queries, keys and values ``(B, N, 3C)``, each head-major.
        num_heads: number of attention heads h; must divide C.

    Returns:
        Attention output ``(B, N, C)``, head-major.
    """
    query, key, value = split_heads(qkv, num_heads)
    out = F.scaled_dot_product_attention(query, key, value)  # (B, h, N, d)
    return out.transpose(1, 2).flatten(2)


class LocalRelationAggregator(nn.Module):
    """Local token mixing with an affinity that depends on the relative offset only::

        out = conv2(attn(conv1(x))),   attn a depthwise K×K convolution

    State dict names are those of UniFormer's blocks, https://github.com/Sense-X/UniFormer.

    Args:
        embed_dims: number of input and output channels.
        kernel_size: kernel side K, odd.

    Raises:
        ValueError: if `kernel_size` is even or not positive.
    """

    def __init__(self, embed_dims: int, kernel_size: int = 5):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size=}")
        self.conv1 = PointwiseConv2d(embed_dims, embed_dims)
        self.attn = nn.Conv2d(
            embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims
        )
        self.conv2 = PointwiseConv2d(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        return self.conv2(self.attn(self.conv1(x)))


class GlobalRelationAggregator(nn.Module):
    """Multi-head self-attention over the positions of a feature map or of each of its windows::

        out = proj(multi_head_attention(qkv(x)))

    The map is zero-padded at the right and the bottom to whole windows, which start at the upper
    left. As published, the padding takes part in the attention: its keys and values are the bias of
    `qkv`.

    Args:
        embed_dims: number of input and output channels.
        head_dims: number of channels per head d; must divide `embed_dims`.
        window_size: side of the windows, in positions; None attends to the whole map.

    Raises:
        ValueError: if a setting violates a constraint above.
    """

    def __init__(self, embed_dims: int, head_dims: int, *, window_size: int | None = None):
        super().__init__()
        if window_size is not None and window_size < 1:
            raise ValueError(f"window_size must be positive or None, got {window_size=}")
        self.num_heads = count_heads(embed_dims, head_dims)
        self.window_size = window_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        size = x.shape[2:]
        window = size if self.window_size is None else (self.window_size, self.window_size)
        windows = partition_windows(x.permute(0, 2, 3, 1), window)  # (B, n, N, C)
        out = multi_head_attention(self.qkv(windows).flatten(0, 1), self.num_heads)
        out = join_windows(out.unflatten(0, windows.shape[:2]), window, size)  # (B, H, W, C)
        return self.proj(out).permute(0, 3, 1, 2)

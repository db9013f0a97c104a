"""UniFormer's token mixing by relation aggregators, and the token pruning of its light networks.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450. The one idea: both aggregators compute ``mix(value(x))``, followed
by a projection. The local affinity is a learned parameter per relative offset (a depthwise
convolution), the global affinity is the similarity of tokens (self-attention).

Token pruning, after Xu et al., "Evo-ViT", AAAI 2022, https://arxiv.org/abs/2108.01390, scores the
tokens by the attention of the class token: those with high scores are kept, and one representative
token replaces the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    PointwiseConv2d,
    are_known,
    at_least,
    depthwise_conv,
    pad_end,
    require_divides,
    require_odd,
    to_tokens,
)
from .softmax_attention import full_attention
from .windows import join_windows, partition_windows


def count_heads(embed_dims: int, head_dims: int) -> int:
    """Return the number of heads of `head_dims` channels in `embed_dims` channels.

    Raises:
        ValueError: if `head_dims` does not divide `embed_dims`.
    """
    require_divides(head_dims=head_dims, embed_dims=embed_dims)
    return embed_dims // head_dims


def class_token_score(query: Tensor, key: Tensor) -> Tensor:
    """Score tokens by the attention weights of the class token, which is the first token.

    The score is the mean over heads of ``softmax(query[0] · keyᵀ / √d)[1:]``, in at least float32,
    because scores near the pruning threshold differ little.

    Args:
        query: queries ``(B, h, 1 + N, d)``.
        key: keys ``(B, h, 1 + N, d)``.

    Returns:
        Scores ``(B, N)``.
    """
    # scaled before the product, which could overflow in half precision
    scaled = query[:, :, :1] * query.shape[3] ** -0.5
    logits = scaled @ key.transpose(2, 3)  # (B, h, 1, 1 + N)
    dtype = torch.promote_types(query.dtype, torch.float32)
    return logits.softmax(3, dtype=dtype).mean(1)[:, 0, 1:]


def update_score(old: Tensor, new: Tensor, trade_off: float) -> Tensor:
    """Update the scores of the first M tokens to ``(1 - trade_off) · old + trade_off · new``.

    Args:
        old: scores of all tokens ``(B, N)``.
        new: new scores of the first tokens ``(B, M)``, with M ≤ N.
        trade_off: weight of the new scores, from 0 to 1.

    Returns:
        Updated scores ``(B, N)``.
    """
    kept, dropped = old.split([new.shape[1], old.shape[1] - new.shape[1]], 1)
    return torch.cat([(1 - trade_off) * kept + trade_off * new, dropped], 1)


def num_kept_tokens(num_tokens: int, keep_ratio: float) -> int:
    """Return the number of tokens to keep, ``int(num_tokens · keep_ratio)``, but at least one."""
    # the lower bound of one is ours: as published, a single token would be pruned
    if are_known(num_tokens):
        return max(1, int(num_tokens * keep_ratio))
    numerator, denominator = keep_ratio.as_integer_ratio()
    return at_least(num_tokens * numerator // denominator, 1)


def order_by_score(score: Tensor) -> Tensor:
    """Return the indices ``(B, N)`` that sort scores ``(B, N)`` from high to low."""
    if torch.onnx.is_in_onnx_export():
        # the sort of ONNX always keeps the order of equal scores
        return score.sort(dim=1, descending=True).indices
    return score.argsort(stable=True, dim=1, descending=True)


def invert_order(order: Tensor) -> Tensor:
    """Return the inverse ``(B, N)`` of permutations ``(B, N)``."""
    return order.argsort(1)


def apply_order(x: Tensor, order: Tensor) -> Tensor:
    """Permute scores ``(B, N)`` or tokens ``(B, N, C)`` by indices ``(B, N)``."""
    return x.gather(1, order if x.ndim == 2 else order[..., None].expand(-1, -1, x.shape[2]))


def representative_token(tokens: Tensor, score: Tensor) -> Tensor:
    """Average tokens weighted by their scores, ``Σ_n score[n] tokens[n] / Σ_n score[n]``.

    Args:
        tokens: tokens ``(B, N, C)``.
        score: non-negative scores ``(B, N)``.

    Returns:
        Representative token ``(B, 1, C)``.
    """
    # if all scores underflow to zero, the tokens get equal weights
    score = score + torch.finfo(score.dtype).tiny
    weights = score / score.sum(1, keepdim=True)
    return (weights[..., None] * tokens).sum(1, keepdim=True).to(tokens.dtype)


def pool_score(score: Tensor, size: tuple[int, int]) -> Tensor:
    """Average scores over 2×2 patches and rescale them to the same sum.

    As in the patch embedding, odd sides are cropped and sides of one position are zero-padded.

    Args:
        score: scores ``(B, H·W)``.
        size: height and width ``(H, W)`` of the map.

    Returns:
        Pooled scores ``(B, max(H // 2, 1) · max(W // 2, 1))``.
    """
    height, width = size
    maps = score.unflatten(1, (1, height, width))
    maps = pad_end(maps, at_least(height, 2) - height, at_least(width, 2) - width)
    pooled = F.avg_pool2d(maps, 2).flatten(1) + torch.finfo(score.dtype).tiny
    return pooled * (score.sum(1, keepdim=True) / pooled.sum(1, keepdim=True))


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
        require_odd(kernel_size=kernel_size)
        self.conv1 = PointwiseConv2d(embed_dims, embed_dims)
        self.attn = depthwise_conv(embed_dims, kernel_size)
        self.conv2 = PointwiseConv2d(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        return self.conv2(self.attn(self.conv1(x)))


class GlobalRelationAggregator(nn.Module):
    """Multi-head self-attention over the positions of a feature map or of each of its windows::

        q, k, v = qkv(x)
        out = proj(full_attention(q, k, v))

    The map is zero-padded at the right and the bottom to whole windows, which start at the upper
    left. As published, the padding takes part in the attention: its keys and values are the bias of
    `qkv`.

    Args:
        embed_dims: number of input and output channels.
        head_dims: number of channels per head d; must divide `embed_dims`.
        window_size: side of the windows, in positions; None attends to the whole map.

    Raises:
        ValueError: if `head_dims` does not divide `embed_dims`, or `window_size` is not positive.
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
        if self.window_size is None:
            windows = to_tokens(x)[:, None]  # (B, R, T, C) with one window
        else:
            window = self.window_size, self.window_size
            windows = partition_windows(x.permute(0, 2, 3, 1), window)  # (B, R, T, C)
        qkv = self.qkv(windows).flatten(0, 1).chunk(3, -1)
        out = full_attention(*qkv, num_heads=self.num_heads)  # (B·R, T, C)
        if self.window_size is None:
            out = out.unflatten(1, size)  # (B, H, W, C)
        else:
            out = join_windows(out.unflatten(0, windows.shape[:2]), window, size)
        return self.proj(out).permute(0, 3, 1, 2)

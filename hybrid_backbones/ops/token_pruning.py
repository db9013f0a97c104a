"""Token pruning: spend attention on the tokens that matter, and move the others together.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450, section on light networks, after Xu et al., "Evo-ViT", AAAI 2022,
https://arxiv.org/abs/2108.01390. The one idea: the attention of a class token scores the tokens;
those with high scores are computed one by one, and one representative stands for the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_token_score(query: Tensor, key: Tensor) -> Tensor:
    """Score tokens by the attention that the class token, the first, pays them.

    The mean over heads of ``softmax(query[0] · keyᵀ / √d)[1:]``. At least float32: scores decide
    which tokens are kept, and those near the cut are close together.

    Args:
        query: ``(B, h, 1 + N, d)``.
        key: ``(B, h, 1 + N, d)``.

    Returns:
        ``(B, N)``.
    """
    logits = query[:, :, :1] @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (B, h, 1, 1 + N)
    dtype = torch.promote_types(query.dtype, torch.float32)
    return logits.softmax(3, dtype=dtype).mean(1)[:, 0, 1:]


def update_score(old: Tensor, new: Tensor, trade_off: float) -> Tensor:
    """Blend ``(1 - trade_off) · old + trade_off · new`` for the first tokens, those in `new`.

    Args:
        old: ``(B, N)``.
        new: ``(B, M)``, M not above N.
        trade_off: from 0 to 1.

    Returns:
        ``(B, N)``.
    """
    kept, dropped = old.split([new.shape[1], old.shape[1] - new.shape[1]], 1)
    return torch.cat([(1 - trade_off) * kept + trade_off * new, dropped], 1)


def num_kept_tokens(num_tokens: int, keep_ratio: float) -> int:
    """Return how many tokens are kept: ``int(num_tokens · keep_ratio)``, at least one."""
    # as published but for a single token, which would be dropped, with nothing to represent
    return max(1, int(num_tokens * keep_ratio))


def order_by_score(score: Tensor) -> Tensor:
    """Return the indices ``(B, N)`` that sort scores ``(B, N)`` from high to low."""
    return score.argsort(stable=True, dim=1, descending=True)


def invert_order(order: Tensor) -> Tensor:
    """Return the order ``(B, N)`` that undoes one."""
    return order.argsort(1)


def apply_order(x: Tensor, order: Tensor) -> Tensor:
    """Take what belongs to tokens, ``(B, N)`` or ``(B, N, C)``, in an order ``(B, N)``."""
    return x.take_along_dim(order if x.ndim == 2 else order[..., None], 1)


def representative_token(tokens: Tensor, score: Tensor) -> Tensor:
    """Average tokens, weighted by their scores: ``Σ_n score[n] tokens[n] / Σ_n score[n]``.

    Args:
        tokens: ``(B, N, C)``, at least one.
        score: ``(B, N)``, not negative.

    Returns:
        ``(B, 1, C)``.
    """
    # all scores may underflow to zero: then all weigh the same
    score = score + torch.finfo(score.dtype).tiny
    weights = score / score.sum(1, keepdim=True)
    return (weights[..., None] * tokens).sum(1, keepdim=True).to(tokens.dtype)


def pool_score(score: Tensor, size: tuple[int, int]) -> Tensor:
    """Average scores over patches of 2×2 positions, rescaled so that their sum stays.

    As patches are embedded: what is left over of an odd side is cut off, a side of one position is
    extended by zeros.

    Args:
        score: ``(B, H·W)``.
        size: H and W.

    Returns:
        ``(B, max(H // 2, 1) · max(W // 2, 1))``.
    """
    height, width = size
    maps = score.unflatten(1, (1, height, width))
    maps = F.pad(maps, (0, int(width == 1), 0, int(height == 1)))
    pooled = F.avg_pool2d(maps, 2).flatten(1) + torch.finfo(score.dtype).tiny
    return pooled * (score.sum(1, keepdim=True) / pooled.sum(1, keepdim=True))

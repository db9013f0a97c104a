"""Token pruning: attend with informative tokens and update the others through a representative.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450, section on light networks, after Xu et al., "Evo-ViT", AAAI 2022,
https://arxiv.org/abs/2108.01390. The one idea: the attention of the class token scores the tokens;
those with high scores are kept, and one representative token replaces the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    logits = query[:, :, :1] @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (B, h, 1, 1 + N)
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
    return max(1, int(num_tokens * keep_ratio))


def order_by_score(score: Tensor) -> Tensor:
    """Return the indices ``(B, N)`` that sort scores ``(B, N)`` from high to low."""
    return score.argsort(stable=True, dim=1, descending=True)


def invert_order(order: Tensor) -> Tensor:
    """Return the inverse ``(B, N)`` of permutations ``(B, N)``."""
    return order.argsort(1)


def apply_order(x: Tensor, order: Tensor) -> Tensor:
    """Permute scores ``(B, N)`` or tokens ``(B, N, C)`` by indices ``(B, N)``."""
    return x.take_along_dim(order if x.ndim == 2 else order[..., None], 1)


def representative_token(tokens: Tensor, score: Tensor) -> Tensor:
    """Average tokens weighted by their scores, ``Σ_n score[n] tokens[n] / Σ_n score[n]``.

    Args:
        tokens: tokens ``(B, N, C)``, at least one.
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
    maps = F.pad(maps, (0, int(width == 1), 0, int(height == 1)))
    pooled = F.avg_pool2d(maps, 2).flatten(1) + torch.finfo(score.dtype).tiny
    return pooled * (score.sum(1, keepdim=True) / pooled.sum(1, keepdim=True))

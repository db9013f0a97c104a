"""Softmax attention weights of a single query."""

import torch
from torch import Tensor

from ..layers import split_heads
from ..ops.softmax_attention import attention_weights

# row and column of a map
Position = tuple[int, int]


def one_query(
    query: Tensor,
    keys: Tensor,
    num_heads: int,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute softmax attention weights of one query, in at least float32.

    Args:
        query: query ``(B, C)``, channels head-major.
        keys: keys ``(B, M, C)``.
        num_heads: number of heads h.
        bias: bias of the logits ``(h, M)``; None is zero.
        scale: scale of the logits; None is ``d**-0.5``.

    Returns:
        weights ``(B, h, M)``.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    query, keys = (split_heads(x.to(exact), num_heads) for x in (query[:, None], keys))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    bias = None if bias is None else bias.to(exact)[None, :, None]
    return attention_weights(query, keys, bias=bias, scale=scale)[:, :, 0]

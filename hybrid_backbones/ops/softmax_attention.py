"""Softmax attention to all tokens, and weights and gradients that are accurate for large logits.

PyTorch's kernels, as in :func:`full_attention`, save the log-sum-exp of each softmax and recompute
the weights in the backward pass as ``exp(logit - logsumexp)``. Rounding errors of the log-sum-exp,
2e-4 near 7000 and 0.5 near 8e6, are relative errors of the weights. :func:`attention_gradients`
recomputes the softmax instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import join_heads, split_heads


def full_attention(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int) -> Tensor:
    """Compute multi-head attention to all tokens, ``softmax(query keyᵀ / √d) value`` per head.

    Args:
        query: queries ``(B, N, C)``, channels head-major.
        key: keys ``(B, M, C)``.
        value: values ``(B, M, C)``.
        num_heads: number of attention heads h; must divide C.

    Returns:
        Attention output ``(B, N, C)``.
    """
    query, key, value = (split_heads(x, num_heads) for x in (query, key, value))
    return join_heads(F.scaled_dot_product_attention(query, key, value))


def attention_weights(query: Tensor, key: Tensor, *, bias: Tensor | None, scale: float) -> Tensor:
    """Compute the attention weights ``softmax(scale · query keyᵀ + bias)``.

    The queries are scaled first, so that products overflow only if the logits do.

    Args:
        query: queries ``(B, h, N, d)``.
        key: keys ``(B, h, M, d)``.
        bias: bias of the logits ``(R, h or 1, N or 1, M)``, repeated along the batch, which R must
            divide; None is zero.
        scale: scale of the logits.

    Returns:
        Attention weights ``(B, h, N, M)``.
    """
    logits = query * scale @ key.mT
    if bias is not None:
        logits.unflatten(0, (-1, len(bias))).add_(bias)
    return logits.softmax(-1)


def attention_gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of query, key, value and the logits.

    With P the weights, O the output, S the logits and s the scale::

        dV = Pᵀ dO
        dS = P ∘ (dO Vᵀ - rowsum(P ∘ dO Vᵀ))
        dQ = s·dS K
        dK = s·dSᵀ Q

    Args:
        grad: gradient of the output ``(B, h, N, d)``.
        query, key, bias, scale: arguments of :func:`attention_weights`.
        value: values ``(B, h, M, d)``.

    Returns:
        Gradients of the shapes of query, key and value, and of the logits ``(B, h, N, M)``.
    """
    weights = attention_weights(query, key, bias=bias, scale=scale)
    grad_weights = grad @ value.mT
    grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    # transposed products, because results with few columns take four times as long on a CPU
    grad_query = (key.mT @ grad_logits.mT).mT * scale
    grad_key = (query.mT @ grad_logits).mT * scale
    grad_value = (grad.mT @ weights).mT
    return grad_query, grad_key, grad_value, grad_logits

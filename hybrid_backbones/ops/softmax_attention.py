"""The gradients of softmax attention, as exact for large logits as for small ones.

Kernels of PyTorch keep of each softmax the logarithm of its sum, and compute weights in the
backward pass as ``exp(logit - logarithm)``. A logarithm near 7000 is rounded by 2e-4, one near 8e6
by 0.5, and weights by as much. Here the softmax is computed anew.
"""

import torch
from torch import Tensor


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Compute ``softmax(scale · query keyᵀ + bias)``.

    The scale comes first: so products overflow only where logits do.

    Args:
        query: ``(n, h, N, d)``.
        key: ``(n, h, M, d)``.
        bias: ``(p, h or 1, N or 1, M)`` with p a divisor of n, repeated along n; None is zero.
        scale: of the logits.

    Returns:
        ``(n, h, N, M)``.
    """
    logits = query * scale @ key.mT
    if bias is not None:
        logits.unflatten(0, (-1, len(bias))).add_(bias)
    return logits.softmax(-1)


def attention_gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of query, key, value and the logits.

    With P the weights, S the logits and s the scale::

        dV = Pᵀ dO
        dS = P ∘ (dO Vᵀ - rowsum(P ∘ dO Vᵀ))
        dQ = s·dS K
        dK = s·dSᵀ Q

    Args:
        grad: ``(n, h, N, d)``, that of the output.
        query, key, bias, scale: as for :func:`attention_weights`.
        value: ``(n, h, M, d)``.
    """
    weights = attention_weights(query, key, bias, scale)
    grad_weights = grad @ value.mT
    grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    # channels in rows: a CPU takes four times as long for a result of few columns
    grad_query = (key.mT @ grad_logits.mT).mT * scale
    grad_key = (query.mT @ grad_logits).mT * scale
    grad_value = (grad.mT @ weights).mT
    return grad_query, grad_key, grad_value, grad_logits

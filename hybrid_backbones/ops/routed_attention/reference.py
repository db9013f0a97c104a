"""Routed attention by gathering: the definition that every other implementation must match."""

import torch
from torch import Tensor


def routed_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    routes: Tensor,
    num_heads: int,
) -> Tensor:
    """Attend from the tokens of each region to those of its routes, which are gathered first.

    In each head, with ``N(i)`` the tokens of the regions ``routes[i]``::

        out(i, t) = Σ_n softmax_n(query(i, t) · key(n) / √C) value(n),   n ∈ N(i)

    Shapes as in :func:`hybrid_backbones.ops.routed_attention`. Memory: k times that of key and
    value, and as much again for the gradients.
    """
    dtype = query.dtype
    # logits may overflow in half precision
    query, key, value = (
        x.to(torch.promote_types(dtype, torch.float32)) for x in (query, key, value)
    )
    batch = torch.arange(len(key), device=key.device)[:, None, None]
    keys, values = (
        x[batch, routes].flatten(2, 3).unflatten(-1, (num_heads, -1)) for x in (key, value)
    )  # (B, R', k·n, h, d)
    query = query.unflatten(-1, (num_heads, -1)) * query.shape[-1] ** -0.5
    logits = torch.einsum("brthd,brshd->brhts", query, keys)  # (B, R', h, n', k·n)
    out = torch.einsum("brhts,brshd->brthd", logits.softmax(-1), values)
    return out.flatten(-2).to(dtype)

"""Routed attention by gathering: the definition that every other implementation must match."""

import torch
from torch import Tensor

from ...layers import join_heads, split_heads


def routed_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> Tensor:
    """Attend from the tokens of each region to those of its routes, which are gathered first.

    In each head, with j over the tokens of the regions ``routes[i]``::

        out(i, t) = Σ_j softmax_j(query(i, t) · key(j) / √C) value(j)

    Shapes as in :func:`hybrid_backbones.ops.routed_attention`. Memory: k times that of key and
    value, and as much again for the gradients.
    """
    dtype = query.dtype
    # logits may overflow in half precision
    query, key, value = (
        x.to(torch.promote_types(dtype, torch.float32)) for x in (query, key, value)
    )
    batch = torch.arange(key.shape[0], device=key.device)[:, None, None]
    keys, values = (
        split_heads(x[batch, routes].flatten(2, 3), num_heads) for x in (key, value)
    )  # (B, R', h, k·T, d)
    logits = split_heads(query, num_heads) * query.shape[-1] ** -0.5 @ keys.mT
    return join_heads(logits.softmax(-1) @ values).to(dtype)

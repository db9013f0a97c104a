"""Routed attention for exported graphs, on tensors of at most four dimensions."""

import torch
from torch import Tensor


def routed_attention_exported(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> Tensor:
    """Compute :func:`.routed_attention_reference` with the samples and regions as one batch."""
    batch, num_regions, num_tokens, channels = key.shape
    first = torch.arange(batch, device=key.device)[:, None, None] * num_regions
    index = (routes + first).flatten()  # (B·R'·k,)
    heads = num_heads, channels // num_heads
    number, length = batch * query.shape[1], routes.shape[2] * num_tokens
    queries = query.reshape(number, query.shape[2], *heads).transpose(1, 2)
    keys, values = (
        x.flatten(0, 1).index_select(0, index).reshape(number, length, *heads) for x in (key, value)
    )  # (B·R', k·T, h, d)
    logits = queries * channels**-0.5 @ keys.permute(0, 2, 3, 1)
    out = logits.softmax(-1) @ values.transpose(1, 2)  # (B·R', h, T', d)
    return out.transpose(1, 2).reshape(query.shape)

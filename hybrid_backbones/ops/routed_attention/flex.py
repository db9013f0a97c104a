"""Routed attention by FlexAttention: a mask of the regions that each region is routed to."""

import torch
from torch import Tensor

from ...layers import join_heads, split_heads
from ..flex import flex_attend, mask_blocks, touched_by_blocks


def routed_attention_flex(
    query: Tensor, key: Tensor, value: Tensor, routes: Tensor, num_heads: int
) -> Tensor:
    """Compute :func:`routed_attention_reference` as masked attention of tokens to tokens."""
    batch, num_regions, num_tokens, channels = key.shape
    num_queries, tokens_of_queries = query.shape[1:3]
    routed = torch.zeros(batch, num_queries, num_regions, dtype=torch.bool, device=query.device)
    routed.scatter_(2, routes, True)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return routed[batch, query // tokens_of_queries, key // num_tokens]

    lengths = num_queries * tokens_of_queries, num_regions * num_tokens
    queries, keys = (torch.arange(length, device=query.device) for length in lengths)
    of_queries = touched_by_blocks(queries // tokens_of_queries, num_queries)
    of_keys = touched_by_blocks(keys // num_tokens, num_regions)
    blocks = of_queries @ routed.float() @ of_keys.T > 0
    heads = (split_heads(x.flatten(1, 2), num_heads) for x in (query, key, value))
    mask = mask_blocks(blocks, sees, lengths)
    return join_heads(flex_attend(*heads, block_mask=mask, scale=channels**-0.5)).view(query.shape)

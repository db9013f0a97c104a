"""Attention weights of one position, recomputed from what an operator received and projected.

Functions of a call of an operator and a position ``(y, x)`` of its output map return the weights
``(B, h, H, W)`` that this position gives to the positions of the map that it attends to.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.uniformer_light import TokenPruningBlock
from ..layers import join_groups, split_groups, to_tokens
from ..ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    EfficientAdditiveAttention,
    GlobalRelationAggregator,
    LocalRelationAggregator,
    MixingAttention,
)
from ..ops.acmix import position_map
from ..ops.biformer import AttentionLePE, AttentionLePE2d
from ..ops.local_attention.borders import reflect
from ..ops.swiftformer import unit_vectors
from ..ops.uniformer import num_kept_tokens, order_by_score
from ..ops.windows import join_windows
from ..ops.xvolution import MergedXVolution, XVolution
from .capture import Call
from .kernels import local_weights, shift_weights
from .one_query import Position, one_query
from .routing import find_routing


def in_window(
    query: Tensor,
    key: Tensor,
    position: Position,
    num_heads: int,
    window: tuple[int, int],
    *,
    shift: int = 0,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the weights of a position within its window, which is cropped to the map.

    Args:
        query, key: maps ``(B, H, W, C)``.
        position: row and column of the query.
        num_heads: number of heads h.
        window: rows and columns of a window, in positions.
        shift: first row and column of the grid of windows.
        bias: bias of the logits ``(h, T, T)`` for the T positions of a whole window.
    """
    first = [(p - shift) // side * side + shift for p, side in zip(position, window, strict=True)]
    rows, columns = (slice(max(a, 0), a + side) for a, side in zip(first, window, strict=True))
    keys = key[:, rows, columns]
    if bias is not None:
        # crop the bias as the window
        seen = bias[:, (position[0] - first[0]) * window[1] + position[1] - first[1]]
        seen = seen.unflatten(1, window)[:, rows.start - first[0] :, columns.start - first[1] :]
        bias = seen[:, : keys.shape[1], : keys.shape[2]].flatten(1)
    weights = one_query(
        query[:, position[0], position[1]], keys.flatten(1, 2), num_heads, bias=bias
    )
    out = weights.new_zeros(len(key), num_heads, *key.shape[1:3])
    out[:, :, rows, columns] = weights.unflatten(2, keys.shape[1:3])
    return out


def _acmix(call: Call, position: Position) -> Tensor:
    module, x = call.module, call.inputs[0]
    assert isinstance(module, ACmix)
    query, key = (
        F.conv2d(x, conv.weight, conv.bias, groups=conv.groups)
        for conv in (module.conv1, module.conv2)
    )
    height, width = x.shape[2:]
    grid = position_map(height, width, module.conv_p.weight.dtype, device=x.device)
    places = F.conv2d(grid, module.conv_p.weight, module.conv_p.bias)
    key = join_groups(split_groups(key, module.num_heads) - places[:, None])
    steps = torch.arange(module.attn_kernel_size, device=x.device) - module.attn_kernel_size // 2
    centre = [module.stride * p for p in position]
    rows, columns = (
        reflect(start + module.dilation * steps, side)
        for start, side in zip(centre, (height, width), strict=True)
    )
    places = (rows[:, None] * width + columns).flatten()  # (K²,) rows of the key tokens
    keys = to_tokens(key)[:, places]
    weights = one_query(query[:, :, centre[0], centre[1]], keys, module.num_heads)
    out = weights.new_zeros(len(x), module.num_heads, height * width)
    # at the borders, reflected positions occur more than once
    return out.index_add(2, places, weights).unflatten(2, (height, width))


def _acmix_window(call: Call, position: Position) -> Tensor:
    module = call.module
    assert isinstance(module, ACmixWindow)
    query, key, _ = call.inner["qkv"][-1].chunk(3, -1)
    side = module.window_size
    shift = module.shift if min(key.shape[1:3]) > side else 0
    bias = module.relative_position_bias()
    return in_window(query, key, position, module.num_heads, (side, side), shift=shift, bias=bias)


def _mixing(call: Call, position: Position) -> Tensor:
    module = call.module
    assert isinstance(module, MixingAttention)
    query, key, _ = call.inner["qkv"][-1].chunk(3, -1)
    window = (module.window_size, module.window_size)
    bias = module.relative_position_bias()
    return in_window(query, key, position, module.num_heads, window, bias=bias)


def _global_relation(call: Call, position: Position) -> Tensor:
    module, size = call.module, tuple(call.inputs[0].shape[2:])
    assert isinstance(module, GlobalRelationAggregator)
    side = module.window_size
    window = size if side is None else (side, side)
    whole = [length + -length % part for length, part in zip(size, window, strict=True)]
    maps = join_windows(call.inner["qkv"][-1], window, whole)
    query, key, _ = maps.chunk(3, -1)
    return in_window(query, key, position, module.num_heads, window)


def _full(call: Call, position: Position) -> Tensor:
    module, size = call.module, tuple(call.inputs[0].shape[2:])
    assert isinstance(module, AttentionLePE | AttentionLePE2d)
    qkv = call.inner["qkv"][-1]
    maps = qkv.unflatten(1, size) if qkv.ndim == 3 else qkv.permute(0, 2, 3, 1)
    query, key, _ = maps.chunk(3, -1)
    return in_window(query, key, position, module.num_heads, size)


def _routed(call: Call, position: Position) -> Tensor:
    module, found = call.module, find_routing(call)
    assert isinstance(module, BiLevelRoutingAttention | BiLevelRoutingAttention2d)
    height, width = found.window
    region = position[0] // height * found.columns[0] + position[1] // width
    place = position[0] % height * width + position[1] % width
    routes = found.routes[:, region]  # (B, k)
    samples = torch.arange(len(routes), device=routes.device)[:, None]
    query, keys = found.query[:, region, place], found.key[samples, routes]  # (B, k, T, C)
    scale = query.shape[-1] ** -0.5  # of all channels, as published
    weights = one_query(query, keys.flatten(1, 2), module.num_heads, scale=scale)
    out = weights.new_zeros(*found.key.shape[:3], module.num_heads)  # (B, R, T, h)
    out[samples, routes] = weights.unflatten(2, keys.shape[1:3]).permute(0, 2, 3, 1)
    rows = len(out[0]) // found.columns[1]
    size = rows * height, found.columns[1] * width
    return join_windows(out, found.window, size).permute(0, 3, 1, 2)


def token_scores(call: Call) -> Tensor:
    """Compute the weight of each token in the global query of additive attention, ``(B, N)``."""
    module, query = call.module, call.inner["to_query"][-1]
    assert isinstance(module, EfficientAdditiveAttention)
    if module.first_release:
        return torch.ones_like(query[..., 0])
    query = unit_vectors(query, dim=2).to(query.dtype)
    return unit_vectors(query @ module.w_g, dim=1)[..., 0]


def _additive(call: Call, position: Position) -> Tensor:
    return token_scores(call).unflatten(1, call.inputs[0].shape[2:])[:, None]


def _pruned(call: Call, position: Position) -> Tensor:
    block, (x,) = call.module, call.inputs
    assert isinstance(block, TokenPruningBlock)
    size, num_tokens = x.map.shape[2:], x.score.shape[1]
    num_kept, order = num_kept_tokens(num_tokens, block.keep_ratio), order_by_score(x.score)
    dropped = order[:, num_kept:]
    query, key, _ = call.inner["attn.qkv"][-1].chunk(3, -1)  # of class, kept, representative
    rank = (order == position[0] * size[1] + position[1]).int().argmax(1)
    # all tokens that are not kept share the representative, which comes last
    rank = rank.clamp(max=num_kept) + 1
    samples = torch.arange(len(rank), device=rank.device)
    weights = one_query(query[samples, rank], key, block.attn.num_heads)
    shares = x.score.gather(1, dropped) + torch.finfo(x.score.dtype).tiny
    shares = (shares / shares.sum(1, keepdim=True)).to(weights.dtype)
    spread = (
        weights[..., 1 + num_kept :] * shares[:, None] if dropped.shape[1] else weights[..., :0]
    )
    tokens = torch.cat([weights[..., 1 : 1 + num_kept], spread], 2)
    places = order[:, None].expand_as(tokens)
    return torch.zeros_like(tokens).scatter(2, places, tokens).unflatten(2, size)


# by operator: the attention inside it, and the weights of a position from a call of the operator
OPERATORS: dict[type[nn.Module], tuple[str, Callable[[Call, Position], Tensor]]] = {
    ACmix: ("", _acmix),
    ACmixWindow: ("", _acmix_window),
    AttentionLePE: ("", _full),
    AttentionLePE2d: ("", _full),
    BiLevelRoutingAttention: ("", _routed),
    BiLevelRoutingAttention2d: ("", _routed),
    EfficientAdditiveAttention: ("", _additive),
    # only the block knows where the tokens of its attention are
    TokenPruningBlock: ("attn", _pruned),
    GlobalRelationAggregator: ("", _global_relation),
    LocalRelationAggregator: ("", local_weights),
    MergedXVolution: ("", shift_weights),
    MixingAttention: ("", _mixing),
    XVolution: ("", shift_weights),
}

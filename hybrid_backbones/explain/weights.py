"""Attention weights of one position, recomputed from what an operator received and projected.

Functions of a call of an operator and a position ``(y, x)`` of its output map return the weights
``(B, h, H, W)`` that this position gives to the positions of the map that it attends to.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.uniformer_light import EvolvingBlock
from ..layers import join_groups, split_groups, split_heads, to_tokens
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
from ..ops.softmax_attention import attention_weights
from ..ops.swiftformer import unit_vectors
from ..ops.uniformer import num_kept_tokens, order_by_score
from ..ops.windows import join_windows
from ..ops.xvolution import MergedXVolution, XVolution
from .capture import Call
from .routing import find_routing

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


def _shift_projections(call: Call) -> tuple[Tensor, Tensor]:
    """Return the queries ``(B, C, H', W')`` and keys ``(B, C, H, W)`` of an X-volution."""
    module = call.module
    if isinstance(module, XVolution):
        return call.inner["query"][-1], call.inner["key"][-1]
    assert isinstance(module, MergedXVolution)
    by_group = call.inner["qkv"][-1].unflatten(1, (module.qkv.groups, 3, -1))
    query, key, _ = map(join_groups, by_group.unbind(2))
    stride = module.placement["stride"]
    return query[..., ::stride, ::stride], key


def dynamic_kernel(call: Call) -> Tensor:
    """Compute the weights of all offsets at all positions of an X-volution.

    Returns:
        weights ``(B, h, K², H', W')``, offsets row by row; zero for offsets outside the map.
    """
    module = call.module
    assert isinstance(module, XVolution | MergedXVolution)
    query, key = _shift_projections(call)
    exact = torch.promote_types(query.dtype, torch.float32)
    query, key = (split_groups(x.to(exact), module.num_heads) for x in (query, key))
    stride, step, side = (module.placement[k] for k in ("stride", "dilation", "kernel_size"))
    padded = F.pad(key, (step * (side // 2),) * 4)
    rows, columns = query.shape[3:]
    # as far as the last query
    ends = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    products = [
        (query * padded[..., y : y + ends[0] : stride, x : x + ends[1] : stride]).sum(2)
        for y in range(0, side * step, step)
        for x in range(0, side * step, step)
    ]
    return torch.stack(products, 2) * query.shape[2] ** -0.5


def _xvolution(call: Call, position: Position) -> Tensor:
    module = call.module
    assert isinstance(module, XVolution | MergedXVolution)
    query, key = _shift_projections(call)
    size = key.shape[2:]
    if isinstance(module, XVolution) and module.attention == "global":
        weights = one_query(query[..., position[0], position[1]], to_tokens(key), module.num_heads)
        return weights.unflatten(2, size)
    stride, step, side = (module.placement[k] for k in ("stride", "dilation", "kernel_size"))
    weights = dynamic_kernel(call)[..., position[0], position[1]].unflatten(2, (side, side))
    # in a map with the zeros around it
    radius = step * (side // 2)
    out = weights.new_zeros(*weights.shape[:2], *(length + 2 * radius for length in size))
    top, left = (stride * p for p in position)
    out[:, :, top : top + 2 * radius + 1 : step, left : left + 2 * radius + 1 : step] = weights
    return out[:, :, radius : radius + size[0], radius : radius + size[1]]


def _local_relation(call: Call, position: Position) -> Tensor:
    module = call.module
    assert isinstance(module, LocalRelationAggregator)
    batch, channels, height, width = call.inputs[0].shape
    kernel = module.attn.weight[:, 0]  # (C, K, K)
    side = kernel.shape[-1]
    out = kernel.new_zeros(batch, channels, height + side - 1, width + side - 1)
    out[:, :, position[0] : position[0] + side, position[1] : position[1] + side] = kernel
    radius = side // 2
    return out[:, :, radius : radius + height, radius : radius + width]


def _pruned(call: Call, position: Position) -> Tensor:
    block, (x,) = call.module, call.inputs
    assert isinstance(block, EvolvingBlock)
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
    EvolvingBlock: ("attn", _pruned),
    GlobalRelationAggregator: ("", _global_relation),
    LocalRelationAggregator: ("", _local_relation),
    MergedXVolution: ("", _xvolution),
    MixingAttention: ("", _mixing),
    XVolution: ("", _xvolution),
}

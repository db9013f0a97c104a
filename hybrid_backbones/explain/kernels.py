"""Weights that are kernels: X-volution's dynamic one, and UniFormer's learned one.

Functions of a call of an operator, as those of :mod:`hybrid_backbones.explain.weights`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import join_groups, split_groups, to_tokens
from ..ops import LocalRelationAggregator
from ..ops.xvolution import MergedXVolution, XVolution
from .capture import Call
from .one_query import Position, one_query


def _projections(call: Call) -> tuple[Tensor, Tensor]:
    """Return the queries ``(B, C, H', W')`` and keys ``(B, C, H, W)`` of an X-volution."""
    module = call.module
    if isinstance(module, XVolution):
        return call.inner["query"][-1], call.inner["key"][-1]
    assert isinstance(module, MergedXVolution)
    by_group = call.inner["qkv"][-1].unflatten(1, (module.qkv.groups, 3, -1))
    query, key, _ = map(join_groups, by_group.unbind(2))
    stride = module.geometry["stride"]
    return query[..., ::stride, ::stride], key


def dynamic_kernel(call: Call) -> Tensor:
    """Compute the weights of all offsets at all positions of an X-volution.

    Returns:
        weights ``(B, h, K², H', W')``, offsets row by row; zero for offsets outside the map.
    """
    module = call.module
    assert isinstance(module, XVolution | MergedXVolution)
    query, key = _projections(call)
    exact = torch.promote_types(query.dtype, torch.float32)
    query, key = (split_groups(x.to(exact), module.num_heads) for x in (query, key))
    stride, step, side = (module.geometry[k] for k in ("stride", "dilation", "kernel_size"))
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


def shift_weights(call: Call, position: Position) -> Tensor:
    module = call.module
    assert isinstance(module, XVolution | MergedXVolution)
    query, key = _projections(call)
    size = key.shape[2:]
    if isinstance(module, XVolution) and module.attention == "global":
        weights = one_query(query[..., position[0], position[1]], to_tokens(key), module.num_heads)
        return weights.unflatten(2, size)
    stride, step, side = (module.geometry[k] for k in ("stride", "dilation", "kernel_size"))
    weights = dynamic_kernel(call)[..., position[0], position[1]].unflatten(2, (side, side))
    # in a map with the zeros around it
    radius = step * (side // 2)
    out = weights.new_zeros(*weights.shape[:2], *(length + 2 * radius for length in size))
    top, left = (stride * p for p in position)
    out[:, :, top : top + 2 * radius + 1 : step, left : left + 2 * radius + 1 : step] = weights
    return out[:, :, radius : radius + size[0], radius : radius + size[1]]


def local_weights(call: Call, position: Position) -> Tensor:
    module = call.module
    assert isinstance(module, LocalRelationAggregator)
    batch, channels, height, width = call.inputs[0].shape
    kernel = module.attn.weight[:, 0]  # (C, K, K)
    side = kernel.shape[-1]
    out = kernel.new_zeros(batch, channels, height + side - 1, width + side - 1)
    out[:, :, position[0] : position[0] + side, position[1] : position[1] + side] = kernel
    radius = side // 2
    return out[:, :, radius : radius + height, radius : radius + width]

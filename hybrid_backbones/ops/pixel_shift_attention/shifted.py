"""Pixel-shift attention by views: each shift is a window of one zero-padded map.

The K² windows are processed one after another and their intermediate results are released, so it
needs the memory of a few maps for any K. Autograd saves only query, key and value; the backward
pass accumulates into windows of two padded gradients.

Under `torch.compile` and in other traces the same sum runs without the hand-written backward pass,
and the compiler fuses it. (PyTorch 2.11 compiles the hand-written one to zero gradients, without a
warning, wherever the forward pass returns an alias of its result.)
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import join_groups, split_groups
from ..choice import is_exporting
from ..custom_gradient import with_gradient
from ..size_cache import is_traced


def pixel_shift_attention_shifted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    num_heads: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute :func:`pixel_shift_attention_reference` window by window."""
    inputs = query, key, value, kernel_size, num_heads, stride, dilation, dtype
    if is_exporting():
        return _attend(*inputs).reshape(query.shape)
    if is_traced(query.device):
        return join_groups(_attend(*inputs))
    return join_groups(with_gradient(_attend, _differentiate, *inputs))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    num_heads: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
) -> Tensor:
    radius = dilation * (kernel_size // 2)
    queries = _wide_heads(query, num_heads)
    keys, values = (_wide_heads(F.pad(x, (radius,) * 4), num_heads) for x in (key, value))
    scale = queries.shape[-3] ** -0.5
    out = queries.new_zeros(())
    for window in _windows(query, kernel_size, stride, dilation):
        out = out + scale * _dot(queries, keys[window]) * values[window]
    return out.to(dtype)  # (B, h, d, H', W')


def _differentiate(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    num_heads: int,
    stride: int,
    dilation: int,
    *_,
) -> tuple[Tensor, ...]:
    radius = dilation * (kernel_size // 2)
    queries, grads = (_wide_heads(x, num_heads) for x in (query, grad.flatten(1, 2)))
    keys, values = (_wide_heads(F.pad(x, (radius,) * 4), num_heads) for x in (key, value))
    grad_queries = torch.zeros_like(queries)
    grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
    scale = queries.shape[2] ** -0.5
    for window in _windows(query, kernel_size, stride, dilation):
        weight = scale * _dot(queries, keys[window])
        grad_weight = scale * _dot(grads, values[window])
        grad_queries.addcmul_(grad_weight, keys[window])
        grad_keys[window].addcmul_(grad_weight, queries)
        grad_values[window].addcmul_(weight, grads)
    height, width = key.shape[-2:]
    inside = (..., slice(radius, radius + height), slice(radius, radius + width))
    wide = grad_queries, grad_keys[inside], grad_values[inside]
    return tuple(join_groups(x).to(query.dtype) for x in wide)


def _wide_heads(x: Tensor, num_heads: int) -> Tensor:
    """Split the heads, ``(B, C, H, W)`` to ``(B, h, d, H, W)``, in at least float32.

    The sums are cubic in the inputs and may overflow in half precision.
    """
    if is_exporting():
        # heads in the batch, (B·h, d, H, W), as not all runtimes have five dimensions
        batch, channels, *size = x.shape
        heads = x.reshape(batch * num_heads, channels // num_heads, *size)
    else:
        heads = split_groups(x, num_heads)
    return heads.to(torch.promote_types(x.dtype, torch.float32))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two maps ``(B, h, d, H, W)`` and sum over channels: ``(B, h, 1, H, W)``."""
    return (a * b).sum(-3, keepdim=True)


def _windows(query: Tensor, kernel_size: int, stride: int, dilation: int) -> Iterator[tuple]:
    """Yield, for each offset, the index of the pixels that queries see in a padded map."""
    height, width = query.shape[-2:]
    for top in range(0, kernel_size * dilation, dilation):
        for left in range(0, kernel_size * dilation, dilation):
            rows = slice(top, top + height * stride, stride)
            yield ..., rows, slice(left, left + width * stride, stride)

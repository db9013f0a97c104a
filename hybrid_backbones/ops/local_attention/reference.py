"""Local attention by unfolding: the definition that every other implementation must match."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .borders import reflect


def local_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Compute attention of each query over its K×K neighbours, which are unfolded first.

    With ``P(y, x)`` the pixels ``(stride·y + dilation·i, stride·x + dilation·j)``, ``|i|, |j| ≤
    K//2``, of the reflected map::

        out(y, x) = Σ_p softmax_p(query(y, x) · key(p) / √d) value(p),   p ∈ P(y, x)

    Shapes as in :func:`hybrid_backbones.ops.local_attention`. Memory: K² copies of key and value.
    """
    query_shape, head_dim, dtype = query.shape, query.shape[2], query.dtype
    # logits may overflow in half precision
    exact = torch.promote_types(dtype, torch.float32)
    # unfolding is several times slower in channels-last memory format
    query, key, value = (x.to(exact).contiguous() for x in (query, key, value))
    neighbours = [_unfold(x, kernel_size, stride, dilation) for x in (key, value)]
    query = query.flatten(3).unsqueeze(3) * head_dim**-0.5  # (B, h, d, 1, N)
    logits = (query * neighbours[0]).sum(2, keepdim=True)  # (B, h, 1, K², N)
    return (logits.softmax(3) * neighbours[1]).sum(3).view(query_shape).to(dtype)


def _unfold(x: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Gather the neighbours of every query: ``(B, h, d, H, W)`` to ``(B, h, d, K², H'·W')``."""
    batch, num_heads, head_dim, height, width = x.shape
    radius = dilation * (kernel_size // 2)
    rows = reflect(torch.arange(-radius, height + radius, device=x.device), height)
    cols = reflect(torch.arange(-radius, width + radius, device=x.device), width)
    padded = x.flatten(0, 1).index_select(-2, rows).index_select(-1, cols)
    columns = F.unfold(padded, kernel_size, dilation=dilation, stride=stride)
    num_queries = columns.shape[-1]
    return columns.view(batch, num_heads, head_dim, kernel_size**2, num_queries)

"""BiFormer's attention: bi-level routing attention, and full attention in the last stage.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
https://arxiv.org/abs/2303.08810. The one idea: mean queries and keys predict which regions are
relevant to each other, so token-level attention is restricted to the top-k regions.

The number of regions is fixed and their size grows with the map; the weights do not depend on
either. Regions are numbered row by row from the upper left. Beside each attention a depthwise
convolution encodes positions: locally-enhanced positional encoding (LePE) of Dong et al., "CSWin
Transformer", CVPR 2022.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    PointwiseConv2d,
    are_known,
    at_least,
    ceil_div,
    depthwise_conv,
    require_divides,
    require_odd,
    to_maps,
    to_tokens,
)
from ..recompute import recompute_before_last
from .choice import is_exporting
from .routed_attention import routed_attention, validate_backend
from .softmax_attention import full_attention
from .windows import crop, join_windows, partition_windows, valid_positions


def region_means(x: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Average the tokens of each region.

    Args:
        x: tokens ``(B, R, T, C)``.
        valid_mask: boolean mask ``(R, T)`` of the tokens to average, with at least one per region;
            None averages all.

    Returns:
        Mean tokens ``(B, R, C)``.
    """
    if valid_mask is None:
        return x.mean(2)
    counts = valid_mask.to(torch.promote_types(x.dtype, torch.float32))  # (R, T)
    shares = counts / counts.sum(1, keepdim=True)
    return torch.einsum("brtc,rt->brc", x, shares.to(x.dtype))


@torch.no_grad()
def route_regions(
    query: Tensor, key: Tensor, topk: int, valid_mask: Tensor | None = None
) -> Tensor:
    """Select the k regions whose mean keys have the largest products with each mean query::

        routes[i] = argtopk_j mean(query[i]) · mean(key[j])

    All heads share the routes, the selection has no gradient, and a region may leave itself out.

    Args:
        query: queries of the R' routed regions, ``(B, R', T, C)``.
        key: keys ``(B, R, T, C)``.
        topk: number k of regions to select, at most R.
        valid_mask: boolean mask ``(R, T)`` of the tokens to average, which requires R' = R; None
            averages all.

    Returns:
        Region indices ``(B, R', k)``, best first.
    """
    # scaling first, as published, avoids an overflow in half precision that would tie the scores
    query = region_means(query, valid_mask) * query.shape[-1] ** -0.5
    scores = query @ region_means(key, valid_mask).transpose(1, 2)  # (B, R', R)
    return scores.topk(topk).indices


class _RoutingAttention(nn.Module):
    """Settings and positional convolution common to both published forms of routing attention."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_windows: int,
        topk: int,
        *,
        lepe_kernel_size: int = 5,
        attn_backend: str | None = None,
    ):
        super().__init__()
        require_divides(num_heads=num_heads, embed_dims=embed_dims)
        if num_windows < 1:
            raise ValueError(f"num_windows must be at least 1, got {num_windows=}")
        if not 1 <= topk <= num_windows**2:
            raise ValueError(f"topk must be from 1 to num_windows² = {num_windows**2}, got {topk=}")
        require_odd(lepe_kernel_size=lepe_kernel_size)
        validate_backend(attn_backend)
        self.num_heads = num_heads
        self.num_windows = num_windows
        self.topk = topk
        self.attn_backend = attn_backend
        self.lepe = depthwise_conv(embed_dims, lepe_kernel_size)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        chosen: list[Tensor],
        *,
        valid_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to the routes in `chosen`; if it is empty, add those of the valid tokens' means.

        What runs again in the backward pass so takes the routes of the forward pass.
        """
        if not chosen:
            # small maps have fewer regions; a graph for any size has a constant k
            topk = self.topk if is_exporting() else -at_least(-key.shape[1], -self.topk)
            chosen.append(route_regions(query, key, topk, valid_mask))
        return routed_attention(
            query, key, value, chosen[0], self.num_heads, backend=self.attn_backend
        )

    def _recompute_before_attention(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Compute ``function(x)``, which attends last, and keep x instead of what attends.

        In the backward pass, Triton's kernels attend again, for the statistics of the softmax.
        """
        # these keep more than their inputs, for which all of them would run again
        if self.attn_backend in ("reference", "flex"):
            return function(x)
        return recompute_before_last(function, x, modules=[self])


class BiLevelRoutingAttention(_RoutingAttention):
    """Attention to the top-k of S×S regions plus a depthwise convolution of the values::

        q, k, v = qkv(x)
        out = wo(routed_attention(q, k, v, route_regions(q, k, topk)) + lepe(v))

    The map is zero-padded at the right and the bottom to multiples of S and partitioned into S×S
    regions. As published, the padding is projected too, so its queries, keys and values are the
    biases: they enter the means, the routes and the softmax, and through `lepe` the pixels near the
    border.

    State dict names are those of https://github.com/rayleizhu/BiFormer. There the gradient of the
    gathered keys needs R times their memory; see :func:`routed_attention`.

    Args:
        embed_dims: number C of input and output channels.
        num_heads: number of attention heads h; must divide `embed_dims`.
        num_windows: number S of regions along each side.
        topk: number k of regions that each region attends to, at most S².
        lepe_kernel_size: kernel side of the convolution of the values, odd.
        attn_backend: backend of :func:`routed_attention`.

    Raises:
        ValueError: if a setting violates a constraint above.
    """

    def __init__(self, embed_dims: int, num_heads: int, num_windows: int, topk: int, **kwargs):
        super().__init__(embed_dims, num_heads, num_windows, topk, **kwargs)
        # the published state dict names the projection qkv.qkv
        self.qkv = nn.ModuleDict(dict(qkv=nn.Linear(embed_dims, 3 * embed_dims)))
        self.wo = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        x = x.permute(0, 2, 3, 1)
        side, (height, width) = self.num_windows, x.shape[1:3]
        window = ceil_div(height, side), ceil_div(width, side)
        padded = side * window[0], side * window[1]
        linear: Any = self.qkv["qkv"]
        # a graph for any size computes all regions
        is_general = is_exporting() or not are_known(height, width)
        # rows and columns of regions that are not of padding only
        filled = ceil_div(height, window[0]), ceil_div(width, window[1])

        def project(x: Tensor) -> Tensor:
            if is_general:
                x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
                return linear(partition_windows(x, window))
            regions = linear(partition_windows(x, window)).unflatten(1, filled)
            return pad_regions(regions, side, linear.bias).flatten(1, 2)

        chosen: list[Tensor] = []

        def attend(x: Tensor) -> tuple[Tensor, Tensor]:
            query, key, value = project(x).chunk(3, -1)
            if not is_general:
                query = query.unflatten(1, (side, side))[:, : filled[0], : filled[1]].flatten(1, 2)
            out = self._attend(query, key, value, chosen)
            return out, join_windows(value, window, padded)

        out, values = self._recompute_before_attention(attend, x)
        out = join_windows(out, window, padded if is_general else (height, width))
        lepe = self.lepe(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out = crop(out, (height, width)) + crop(lepe, (height, width))
        return self.wo(out).permute(0, 3, 1, 2)


def pad_regions(regions: Tensor, side: int, value: Tensor) -> Tensor:
    """Pad ``(B, rows, columns, T, C)`` to S×S regions, all of whose tokens are `value`."""
    for dim in (1, 2):
        shape = list(regions.shape)
        shape[dim] = side - shape[dim]
        if shape[dim]:
            regions = torch.cat([regions, value.to(regions.dtype).expand(shape)], dim)
    return regions


class BiLevelRoutingAttention2d(_RoutingAttention):
    """Bi-level routing attention with 1×1 convolutions, the refactored published form.

    It equals :class:`BiLevelRoutingAttention` if S divides both sides of the map. Otherwise the
    region sides are rounded down, so there can be more than S×S regions. Padding follows the
    projection, so its queries, keys and values are zeros; they enter the softmax, but
    neither the means nor `lepe`.

    The arguments are those of :class:`BiLevelRoutingAttention`; state dict names are as published.
    """

    def __init__(self, embed_dims: int, num_heads: int, num_windows: int, topk: int, **kwargs):
        super().__init__(embed_dims, num_heads, num_windows, topk, **kwargs)
        self.qkv_linear = nn.Conv2d(embed_dims, 3 * embed_dims, 1)
        self.output_linear = nn.Conv2d(embed_dims, embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        size = x.shape[2:]
        # published without the lower bound, so sides of fewer than S pixels fail there
        window = [at_least(side // self.num_windows, 1) for side in size]
        qkv = self.qkv_linear(x)
        chosen: list[Tensor] = []

        def attend(qkv: Tensor) -> Tensor:
            query, key, value = partition_windows(qkv.permute(0, 2, 3, 1), window).chunk(3, -1)
            valid_mask = valid_positions(size, window, qkv.device)
            return self._attend(query, key, value, chosen, valid_mask=valid_mask)

        out = join_windows(self._recompute_before_attention(attend, qkv), window, size)
        return self.output_linear(out.permute(0, 3, 1, 2) + self.lepe(qkv.chunk(3, 1)[2]))


class _LePEAttention(nn.Module):
    """Projections and positional convolution common to both published forms of full attention."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int = 8,
        *,
        lepe_kernel_size: int = 5,
        linear: Callable[..., nn.Module],
    ):
        super().__init__()
        require_divides(num_heads=num_heads, embed_dims=embed_dims)
        require_odd(lepe_kernel_size=lepe_kernel_size)
        self.num_heads = num_heads
        self.qkv = linear(embed_dims, 3 * embed_dims, bias=False)
        self.proj = linear(embed_dims, embed_dims)
        self.lepe = depthwise_conv(embed_dims, lepe_kernel_size)


class AttentionLePE(_LePEAttention):
    """Attention to all tokens plus a depthwise convolution of the input::

        out = proj(full_attention(qkv(x)) + lepe(x))

    State dict names are those of https://github.com/rayleizhu/BiFormer, where the convolution also
    takes the input rather than the values.

    Args:
        embed_dims: number C of input and output channels.
        num_heads: number of attention heads h; must divide `embed_dims`.
        lepe_kernel_size: kernel side of the convolution, odd.

    Raises:
        ValueError: if a setting violates a constraint above.
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, **kwargs):
        super().__init__(embed_dims, num_heads, linear=nn.Linear, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        out = full_attention(*self.qkv(to_tokens(x)).chunk(3, -1), num_heads=self.num_heads)
        return to_maps(self.proj(out + to_tokens(self.lepe(x))), x.shape[2:])


class AttentionLePE2d(_LePEAttention):
    """Attention to all tokens plus a depthwise convolution of the values::

        q, k, v = qkv(x)
        out = proj(full_attention(q, k, v) + lepe(v))

    The refactored published form, with 1×1 convolutions as projections. State dict names are as
    published; the arguments are those of :class:`AttentionLePE`.
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, **kwargs):
        super().__init__(embed_dims, num_heads, linear=PointwiseConv2d, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to a tensor of the same shape."""
        query, key, value = self.qkv(x).chunk(3, 1)
        out = full_attention(*map(to_tokens, (query, key, value)), num_heads=self.num_heads)
        return self.proj(to_maps(out, x.shape[2:]) + self.lepe(value))

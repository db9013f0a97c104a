"""Bi-level routing attention: choose regions first, then attend to the tokens of these.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
https://arxiv.org/abs/2303.08810. The one idea: the mean query and key of a region tell well enough
which other regions matter to it; token attention then runs over the k best of them only.

The number of regions is fixed, not their size: the same weights work with any number, and a larger
map has larger regions. Regions are in rows from the upper left.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .routed_attention import routed_attention, validate_backend
from .windows import join_windows, partition_windows, valid_positions


def region_means(x: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Average the tokens of each region, ``(B, R, n, C)`` to ``(B, R, C)``.

    Args:
        x: ``(B, R, n, C)``.
        valid_mask: ``(R, n)``, boolean, which tokens count, at least one in each region; None is
            all.
    """
    if valid_mask is None:
        return x.mean(2)
    counts = valid_mask.to(torch.promote_types(x.dtype, torch.float32))  # (R, n)
    shares = counts / counts.sum(1, keepdim=True)
    return torch.einsum("brnc,rn->brc", x, shares.to(x.dtype))


@torch.no_grad()
def route_regions(
    query: Tensor, key: Tensor, topk: int, valid_mask: Tensor | None = None
) -> Tensor:
    """Choose the k regions whose mean key has the largest product with a region's mean query::

        routes[i] = argtopk_j mean(query[i]) · mean(key[j])

    All heads share the choice, and no gradient passes it. A region need not choose itself.

    Args:
        query: ``(B, R', n, C)``.
        key: ``(B, R, n, C)``.
        topk: k, at most R.
        valid_mask: ``(R, n)``, boolean, which tokens count in the means, with R' = R; None is all.

    Returns:
        ``(B, R', k)``, integers below R, the best first.
    """
    # as published, the scale comes first; else half precision overflows, and regions are alike
    query = region_means(query, valid_mask) * query.shape[-1] ** -0.5
    scores = query @ region_means(key, valid_mask).transpose(1, 2)  # (B, R', R)
    return scores.topk(topk).indices


class _RoutingAttention(nn.Module):
    """Own the settings and the positional convolution that both published forms share."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_windows: int,
        topk: int,
        *,
        lepe_kernel_size: int = 5,
        mask_padding: bool = False,
        attn_backend: str | None = None,
    ):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims, got {num_heads=}, {embed_dims=}")
        if num_windows < 1:
            raise ValueError(f"num_windows must be at least 1, got {num_windows=}")
        if not 1 <= topk <= num_windows**2:
            raise ValueError(f"topk must be from 1 to num_windows² = {num_windows**2}, got {topk=}")
        if lepe_kernel_size < 1 or lepe_kernel_size % 2 == 0:
            raise ValueError(f"lepe_kernel_size must be odd and positive, got {lepe_kernel_size=}")
        validate_backend(attn_backend)
        self.num_heads = num_heads
        self.num_windows = num_windows
        self.topk = topk
        self.mask_padding = mask_padding
        self.attn_backend = attn_backend
        self.lepe = nn.Conv2d(
            embed_dims,
            embed_dims,
            lepe_kernel_size,
            padding=lepe_kernel_size // 2,
            groups=embed_dims,
        )

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, valid_mask: Tensor | None = None
    ) -> Tensor:
        """Route by the means of the valid tokens, and attend to them under `mask_padding`."""
        # a map of few pixels has fewer regions
        routes = route_regions(query, key, min(self.topk, key.shape[1]), valid_mask)
        return routed_attention(
            query,
            key,
            value,
            routes,
            self.num_heads,
            valid_mask=valid_mask if self.mask_padding else None,
            backend=self.attn_backend,
        )


class BiLevelRoutingAttention(_RoutingAttention):
    """Add attention to the k best of S×S regions and a convolution of the values::

        q, k, v = qkv(x)
        out = wo(routed_attention(q, k, v, route_regions(q, k, topk)) + lepe(v))

    A map is cut into S×S regions, after zeros at the right and the bottom have extended it to
    multiples of S. As published, this padding is projected like all else: its queries, keys and
    values are the biases. They count in the means, can be routed to, take part in the softmax, and
    reach the last pixels of the map through `lepe`. `mask_padding` keeps them out of all four; the
    published weights were trained without it.

    Published at https://github.com/rayleizhu/BiFormer, whose entry names these are. There the
    gradient of the gathered keys needs R times their memory; see :func:`routed_attention`.

    Args:
        embed_dims: C, channels of x and of the result.
        num_heads: h, a divisor of C.
        num_windows: S, regions a side.
        topk: k, regions that each region attends to, at most S².
        lepe_kernel_size: of the convolution of the values, odd.
        mask_padding: attend, route and convolve as if there were no padding.
        attn_backend: backend of :func:`routed_attention`.

    Raises:
        ValueError: for settings other than these.
    """

    def __init__(self, embed_dims: int, num_heads: int, num_windows: int, topk: int, **kwargs):
        super().__init__(embed_dims, num_heads, num_windows, topk, **kwargs)
        # the published name of the projection is qkv.qkv
        self.qkv = nn.ModuleDict(dict(qkv=nn.Linear(embed_dims, 3 * embed_dims)))
        self.wo = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        x = x.permute(0, 2, 3, 1)
        height, width = size = x.shape[1:3]
        window = tuple(-(-side // self.num_windows) for side in size)
        if self.mask_padding:
            out, lepe = self._attend_to_real(x, window)
        else:
            out, lepe = self._attend_to_all(x, window)
        out = join_windows(out, window, size) + lepe[..., :height, :width].permute(0, 2, 3, 1)
        return self.wo(out).permute(0, 3, 1, 2)

    def _attend_to_all(self, x: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the attention of regions with real tokens, and `lepe` of the padded map."""
        side, (height, width) = self.num_windows, x.shape[1:3]
        padded = side * window[0], side * window[1]
        x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        query, key, value = self.qkv["qkv"](partition_windows(x, window)).chunk(3, -1)
        # nobody wants the result of a region that is all padding
        rows, columns = -(-height // window[0]), -(-width // window[1])
        query = query.unflatten(1, (side, side))[:, :rows, :columns].flatten(1, 2)
        lepe = self.lepe(join_windows(value, window, padded).permute(0, 3, 1, 2))
        return self._attend(query, key, value), lepe

    def _attend_to_real(self, x: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the attention of regions with real tokens, and `lepe` of the map."""
        size = x.shape[1:3]
        query, key, value = self.qkv["qkv"](partition_windows(x, window)).chunk(3, -1)
        lepe = self.lepe(join_windows(value, window, size).permute(0, 3, 1, 2))
        return self._attend(query, key, value, valid_positions(size, window, x.device)), lepe


class BiLevelRoutingAttention2d(_RoutingAttention):
    """Compute bi-level routing attention by 1×1 convolutions: the refactored published form.

    It equals :class:`BiLevelRoutingAttention` where S divides both sides of the map. Elsewhere the
    side of a region is rounded down, and there can be more than S×S of them; the padding follows
    the projection, so its queries, keys and values are zeros, which count in the softmax (unless
    `mask_padding`), but neither in the means nor in `lepe`.

    Arguments as of :class:`BiLevelRoutingAttention`; entry names are the published ones.
    """

    def __init__(self, embed_dims: int, num_heads: int, num_windows: int, topk: int, **kwargs):
        super().__init__(embed_dims, num_heads, num_windows, topk, **kwargs)
        self.qkv_linear = nn.Conv2d(embed_dims, 3 * embed_dims, 1)
        self.output_linear = nn.Conv2d(embed_dims, embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        size = x.shape[2:]
        # published without the lower bound, and a map of fewer than S pixels a side fails
        window = tuple(max(side // self.num_windows, 1) for side in size)
        query, key, value = self.qkv_linear(x).chunk(3, 1)
        regions = [partition_windows(y.permute(0, 2, 3, 1), window) for y in (query, key, value)]
        out = self._attend(*regions, valid_positions(size, window, x.device))
        out = join_windows(out, window, size).permute(0, 3, 1, 2)
        return self.output_linear(out + self.lepe(value))

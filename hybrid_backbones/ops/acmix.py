"""ACmix: convolution and self-attention from the same three projections.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
https://arxiv.org/abs/2111.14556. The one idea: a 3×3 convolution and a self-attention layer both
begin with 1×1 projections; compute these once and let two light branches share them.

Two identities make it lean, both exact. The position term of the query is the same for all of its
neighbours and cancels in the softmax: attention is plain local attention with ``key - position``.
And the head-mixing layer followed by the shifting convolution is one grouped convolution, whose
kernel is the product of the two weights; with few heads that takes no more products.
"""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import join_groups, split_groups
from .local_attention import local_attention, validate_settings
from .size_cache import cached_by_size


@cached_by_size
def position_map(height: int, width: int, dtype: torch.dtype, *, device: torch.device) -> Tensor:
    """Make the map of pixel coordinates, each axis from -1 to 1 (an axis of one pixel is -1).

    Returns:
        ``(1, 2, H, W)``, channels innermost in memory: channel 0 is x, channel 1 is y.
    """
    xs = torch.linspace(-1, 1, width, device=device, dtype=dtype)
    ys = torch.linspace(-1, 1, height, device=device, dtype=dtype)
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], -1)
    return grid[None].permute(0, 3, 1, 2)


def acmix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    num_heads: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Attend over the K×K neighbours with a relative position term: ACmix's attention branch.

    The logit of query p and neighbour n is ``query(p)·(key(n) + position(p) - position(n)) / √d``.

    Args:
        query: ``(B, C, H, W)`` at full resolution, channels head-major.
        key: ``(B, C, H, W)``.
        value: ``(B, C, H, W)``.
        position: ``(1, d, H, W)`` encoded positions, shared by all heads and the batch.
        num_heads: h, a divisor of C.
        kernel_size: K, odd.
        stride: of the queries, in pixels.
        dilation: of the neighbours, in pixels.
        backend: as in :func:`local_attention`.

    Returns:
        ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    if stride > 1:
        query = query[..., ::stride, ::stride]
    query, key, value = (split_groups(x, num_heads) for x in (query, key, value))
    # query · position(p) is the same for all neighbours n and cancels in the softmax
    out = local_attention(
        query,
        key + (-position)[:, None],
        value,
        kernel_size,
        stride=stride,
        dilation=dilation,
        backend=backend,
    )
    return join_groups(out)


def acmix_convolution(
    qkv: Tensor,
    mixing: Tensor,
    kernels: Tensor,
    num_heads: int,
    *,
    mixing_bias: Tensor | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """Mix the heads of query, key and value into Kc² maps, then shift and sum them.

    This is ACmix's convolution branch, a Kc×Kc convolution of zero-padded maps::

        qkv = [query, key, value],   3n maps of d channels each,   n = num_heads
        G[t, d] = mixing_bias[t] + Σ_h mixing[t, h] qkv[h, d]
        out[c] = Σ_t kernels[c, t] * G[t, c // n]

    Args:
        qkv: ``(B, 3C, H, W)``, query, key, value in turn, each head-major.
        mixing: ``(Kc², 3n)``.
        kernels: ``(C, Kc², Kc, Kc)``.
        num_heads: n, a divisor of C.
        mixing_bias: ``(Kc²,)``; None adds none.
        stride: of the convolution, in pixels.
        dilation: of the convolution, in pixels.

    Returns:
        ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    num_taps = mixing.shape[0]
    pixels = qkv.permute(0, 2, 3, 1).unflatten(3, (3 * num_heads, -1))  # (B, H, W, 3n, d)
    stacked = pixels.transpose(3, 4)
    # int: a trace has tensors for sizes, which PyTorch 2.6 does not take as padding
    padding = int(dilation * (kernels.shape[-1] // 2))
    settings = dict(stride=stride, padding=padding, dilation=dilation)
    if num_heads > 1 + num_taps / 3:
        # many heads: mixing them first takes fewer products
        return _convolve(F.linear(stacked, mixing, mixing_bias), kernels, **settings)
    # few heads: Σ_t over mixing and kernels first, and G is never stored
    composed = torch.einsum("th,ctyx->chyx", mixing, kernels)  # (C, 3n, Kc, Kc)
    out = _convolve(stacked, composed, **settings)
    if mixing_bias is None:
        return out
    # the bias is part of G, and so ends at the borders: it arrives there through fewer taps
    composed = torch.einsum("t,ctyx->cyx", mixing_bias, kernels)[:, None]  # (C, 1, Kc, Kc)
    return out + F.conv2d(qkv.new_ones(1, 1, *qkv.shape[2:]), composed, **settings)


def _convolve(stacked: Tensor, weight: Tensor, **settings) -> Tensor:
    """Convolve ``(B, H, W, d, t)`` in d groups of t channels each."""
    groups = stacked.shape[3]
    maps = stacked.flatten(3).permute(0, 3, 1, 2)  # (B, d·t, H, W)
    if maps.device.type != "cpu":
        # on CPUs alone channels that are innermost in memory were measured, and are faster
        maps = maps.contiguous()
    return F.conv2d(maps, weight, groups=groups, **settings)


class ShiftConvolution(nn.Module):
    """Own the kernels of the convolution branch, ``(out_channels, Kc², Kc, Kc)``.

    At initialisation filter t moves its map by one of the Kc² shifts. It is not an `nn.Conv2d`, so
    a host that re-initialises every convolution by class leaves the shifts as they are.
    """

    def __init__(self, out_channels: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(out_channels, kernel_size**2, kernel_size, kernel_size)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make filter t one-hot at ``(t // Kc, t % Kc)``, the same for every output channel."""
        taps = self.weight.shape[1]
        shifts = torch.eye(taps).view(self.weight.shape[1:])
        with torch.no_grad():
            self.weight.copy_(shifts.expand_as(self.weight))


@MODELS.register_module()
class ACmix(nn.Module):
    """Add self-attention and convolution computed from shared projections::

        q, k, v = conv1(x), conv2(x), conv3(x)
        out = rate1 · acmix_attention(q, k, v, conv_p(position_map))
            + rate2 · acmix_convolution(q, k, v, fc, dep_conv)

    It takes the place of a convolution: mmdet's and mmseg's ResNets accept
    ``dcn=dict(type='ACmix')``, mmcv's ``build_conv_layer`` builds it. The output has
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns for any input size.

    Published at https://github.com/LeapLabTHU/ACmix, whose entry names these are. There the bias of
    the projections is always on, and dilation, kernel sizes other than 3 and odd sizes under a
    stride fail; here dilation spreads the neighbours of both branches.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output, a multiple of num_heads.
        kernel_size: Kc of the convolution branch, odd.
        stride: of the output, in pixels.
        padding: must be ``dilation * (kernel_size // 2)``, the one that keeps the size.
        dilation: of both branches, in pixels.
        groups: of the projections q, k and v, for the slots of grouped convolutions.
        bias: whether the projections have one.
        num_heads: h.
        attn_kernel_size: K of the attention branch, odd.
        attn_backend: backend of :func:`local_attention`.

    Raises:
        ValueError: for settings other than these.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = True,
        *,
        groups: int = 1,
        num_heads: int = 4,
        attn_kernel_size: int = 7,
        attn_backend: str | None = None,
    ):
        super().__init__()
        if num_heads < 1 or out_channels % num_heads:
            raise ValueError(
                f"num_heads must divide out_channels, got {num_heads=}, {out_channels=}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size=}")
        if attn_kernel_size < 1 or attn_kernel_size % 2 == 0:
            raise ValueError(f"attn_kernel_size must be odd and positive, got {attn_kernel_size=}")
        validate_settings(attn_kernel_size, stride, dilation, attn_backend)
        if padding != dilation * (kernel_size // 2):
            raise ValueError(
                f"padding must be dilation * (kernel_size // 2) = {dilation * (kernel_size // 2)}, "
                f"got {padding=}"
            )
        self.num_heads = num_heads
        self.stride = stride
        self.dilation = dilation
        self.attn_kernel_size = attn_kernel_size
        self.attn_backend = attn_backend
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=bias)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=bias)
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=bias)
        self.conv_p = nn.Conv2d(2, out_channels // num_heads, 1, bias=bias)
        self.fc = nn.Conv2d(3 * num_heads, kernel_size**2, 1, bias=False)
        self.dep_conv = ShiftConvolution(out_channels, kernel_size)
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
        if x.device.type == "cpu":
            # projections, tiles of attention and grouped convolution then move whole pixels
            x = x.contiguous(memory_format=torch.channels_last)
        qkv = self._project(x)
        grid = position_map(*x.shape[2:], self.conv_p.weight.dtype, device=x.device)
        placement = dict(stride=self.stride, dilation=self.dilation)
        attention = acmix_attention(
            *qkv.chunk(3, 1),
            self.conv_p(grid),
            self.num_heads,
            self.attn_kernel_size,
            backend=self.attn_backend,
            **placement,
        )
        # of the kernels, because these are smaller than the map
        kernels = self.rate2[:, None, None, None] * self.dep_conv.weight
        mixing = self.fc.weight.flatten(1)  # (Kc², 3h)
        convolution = acmix_convolution(qkv, mixing, kernels, self.num_heads, **placement)
        # under autocast the branches are half precision and the rate is not
        return torch.addcmul(convolution, self.rate1.to(attention.dtype), attention)

    def _project(self, x: Tensor) -> Tensor:
        """Map x to queries, keys and values ``(B, 3 · out_channels, H, W)``."""
        layers = (self.conv1, self.conv2, self.conv3)
        if self.conv1.groups > 1:
            return torch.cat([layer(x) for layer in layers], 1)
        weight = torch.cat([layer.weight for layer in layers])
        bias = None if self.conv1.bias is None else torch.cat([layer.bias for layer in layers])
        return F.conv2d(x, weight, bias)

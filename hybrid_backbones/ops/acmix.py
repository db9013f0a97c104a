"""ACmix: convolution and self-attention that share three projections.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
https://arxiv.org/abs/2111.14556. The one idea: a 3×3 convolution and a self-attention layer both
begin with 1×1 projections, so two light branches share one set of them.

Two exact identities reduce the cost. The position term of the query is the same for all its
neighbours and cancels in the softmax, so the attention is local attention with ``key - position``.
The head-mixing layer and the shift convolution compose into one grouped convolution, whose kernel
is the product of the two weights; with few heads this takes no more multiplications.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import are_known, at_least, join_groups, require_divides, require_odd, split_groups
from ..recompute import recompute_before_last
from .choice import is_exporting
from .local_attention import local_attention, local_attention_fixed_tiles, validate_settings
from .size_cache import cached_by_size
from .validation import require_same_padding


@cached_by_size
def position_map(height: int, width: int, dtype: torch.dtype, *, device: torch.device) -> Tensor:
    """Create a map of pixel coordinates from -1 to 1; the coordinate along a side of 1 is -1.

    Returns:
        Coordinates ``(1, 2, H, W)`` in channels-last memory: channel 0 is x, channel 1 is y.
    """
    xs, ys = (_coordinates(side, dtype, device) for side in (width, height))
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], -1)
    return grid[None].permute(0, 3, 1, 2)


def _coordinates(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if are_known(length):
        return torch.linspace(-1, 1, length, device=device, dtype=dtype)
    # the compiler and the exporter to ONNX would fix the length of linspace
    steps = torch.arange(length, device=device, dtype=dtype)
    return steps * 2 / torch.full_like(steps, at_least(length - 1, 1)) - 1


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
    """Compute ACmix's attention branch: K×K local attention with a relative position term.

    The logit of query p and neighbour n is ``query(p)·(key(n) + position(p) - position(n)) / √d``.

    Args:
        query: queries ``(B, C, H, W)`` at full resolution, channels head-major.
        key: keys ``(B, C, H, W)``.
        value: values ``(B, C, H, W)``.
        position: encoded positions ``(1, d, H, W)``, shared by all heads and samples.
        num_heads: number of attention heads h; must divide C.
        kernel_size: side K of the neighbourhood, odd.
        stride: distance between neighbouring queries, in pixels.
        dilation: distance between the neighbours of a query, in pixels.
        backend: backend of :func:`local_attention`.

    Returns:
        Attention output ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    if stride > 1:
        query = query[..., ::stride, ::stride]
    if backend is None and is_exporting():
        key = key - position.repeat(1, num_heads, 1, 1)
        settings = num_heads, kernel_size, stride, dilation
        return local_attention_fixed_tiles(query, key, value, *settings)
    query, key, value = (split_groups(x, num_heads) for x in (query, key, value))
    # query · position(p) cancels in the softmax
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
    """Compute ACmix's convolution branch: mix the 3h head maps into Kc² maps, then shift and sum.

    In total this is a Kc×Kc convolution of zero-padded maps::

        qkv = [query, key, value],   3h maps of d channels each
        G[t, j] = mixing_bias[t] + Σ_i mixing[t, i] qkv[i, j]
        out[c] = Σ_t kernels[c, t] * G[t, c // h]

    Args:
        qkv: concatenated queries, keys and values ``(B, 3C, H, W)``, each head-major.
        mixing: weights that mix the head maps, ``(Kc², 3h)``.
        kernels: convolution kernels ``(C, Kc², Kc, Kc)``.
        num_heads: number of attention heads h; must divide C.
        mixing_bias: bias of the mixing ``(Kc²,)``, or None.
        stride: stride of the convolution, in pixels.
        dilation: dilation of the convolution, in pixels.

    Returns:
        Convolution output ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    num_taps = mixing.shape[0]
    # int: sizes are tensors under tracing, which PyTorch 2.6 rejects as padding
    padding = int(dilation * (kernels.shape[-1] // 2))
    settings: dict[str, Any] = dict(stride=stride, padding=padding, dilation=dilation)
    size = qkv.shape[0], *qkv.shape[2:]
    if num_heads > 1 + num_taps / 3:
        # with many heads, mixing first takes fewer multiplications
        def mix(qkv: Tensor) -> Tensor:
            return F.linear(_stack_heads(qkv, num_heads), mixing, mixing_bias)

        return _convolve(recompute_before_last(mix, qkv), size, kernels, **settings)
    # with few heads, composing the weights first avoids storing G
    composed = torch.einsum("th,ctyx->chyx", mixing, kernels)  # (C, 3h, Kc, Kc)

    def convolve(qkv: Tensor) -> Tensor:
        return _convolve(_stack_heads(qkv, num_heads), size, composed, **settings)

    out = recompute_before_last(convolve, qkv)
    if mixing_bias is None:
        return out
    # G including its bias is zero-padded, so fewer taps contribute the bias at the borders
    of_bias = torch.einsum("t,ctyx->cyx", mixing_bias, kernels)[:, None]  # (C, 1, Kc, Kc)
    return out + F.conv2d(qkv.new_ones(1, 1, *qkv.shape[2:]), of_bias, **settings)


def _stack_heads(qkv: Tensor, num_heads: int) -> Tensor:
    """Stack the head maps channel by channel, ``(B, 3C, H, W)`` to ``(B, H, W, d, 3h)``."""
    pixels = qkv.permute(0, 2, 3, 1)
    if is_exporting():
        # one dimension for the pixels of all maps, as not all runtimes have five
        pixels = pixels.flatten(0, 2)
    return pixels.unflatten(-1, (3 * num_heads, -1)).transpose(-2, -1)


def _convolve(stacked: Tensor, size: Sequence[int], weight: Tensor, **settings: Any) -> Tensor:
    """Convolve ``(B, H, W, d, t)``, of size ``(B, H, W)``, in d groups of t input channels."""
    groups = stacked.shape[-2]
    pixels = stacked.flatten(-2)
    if is_exporting():
        pixels = pixels.unflatten(0, size)
    maps = pixels.permute(0, 3, 1, 2)  # (B, d·t, H, W)
    if maps.device.type != "cpu":
        # channels-last memory is measured, and faster, on CPUs only
        maps = maps.contiguous()
    return F.conv2d(maps, weight, groups=groups, **settings)


class ShiftConvolution(nn.Module):
    """Kernels of ACmix's convolution branch, ``(out_channels, Kc², Kc, Kc)``.

    Filter t is initialised to one of the Kc² shifts. The class does not derive from `nn.Conv2d`, so
    that hosts which re-initialise all convolutions keep the shifts.
    """

    def __init__(self, out_channels: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(out_channels, kernel_size**2, kernel_size, kernel_size)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set filter t of every output channel to one-hot at ``(t // Kc, t % Kc)``."""
        taps = self.weight.shape[1]
        shifts = torch.eye(taps).view(self.weight.shape[1:])
        with torch.no_grad():
            self.weight.copy_(shifts.expand_as(self.weight))


class ACmix(nn.Module):
    """Weighted sum of self-attention and convolution computed from shared projections::

        q, k, v = conv1(x), conv2(x), conv3(x)
        out = rate1 · acmix_attention(q, k, v, conv_p(position_map))
            + rate2 · acmix_convolution(q, k, v, fc, dep_conv)

    A drop-in replacement for a convolution: mmdet's and mmseg's ResNets accept
    ``dcn=dict(type='ACmix')`` and mmcv's ``build_conv_layer`` builds it. The output has
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns for any input size.

    State dict names are those of https://github.com/LeapLabTHU/ACmix. There the projections always
    have a bias, and dilation, kernel sizes other than 3, and odd sizes with a stride fail; here
    dilation applies to both branches.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels, a multiple of `num_heads`.
        kernel_size: kernel side Kc of the convolution branch, odd.
        stride: stride of both branches, in pixels.
        padding: must be ``dilation * (kernel_size // 2)``, which keeps the size at stride 1.
        dilation: dilation of both branches, in pixels.
        bias: whether the projections have a bias.
        groups: number of groups of the projections q, k and v, for use as a grouped convolution.
        num_heads: number of attention heads h.
        attn_kernel_size: kernel side K of the attention branch, odd.
        attn_backend: backend of :func:`local_attention`.

    Raises:
        ValueError: if a setting violates a constraint above.
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
        require_divides(num_heads=num_heads, out_channels=out_channels)
        require_odd(kernel_size=kernel_size, attn_kernel_size=attn_kernel_size)
        validate_settings(attn_kernel_size, stride, dilation, attn_backend)
        require_same_padding(padding, kernel_size, dilation)
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
            # makes all channels of a pixel contiguous for every step below
            x = x.contiguous(memory_format=torch.channels_last)
        qkv = self._project(x)
        query, key, value = qkv.chunk(3, 1)
        grid = position_map(*x.shape[2:], self.conv_p.weight.dtype, device=x.device)
        geometry: dict[str, Any] = dict(stride=self.stride, dilation=self.dilation)
        attention = acmix_attention(
            query,
            key,
            value,
            self.conv_p(grid),
            self.num_heads,
            self.attn_kernel_size,
            backend=self.attn_backend,
            **geometry,
        )
        # scale the kernels because they are smaller than the feature map
        kernels = self.rate2[:, None, None, None] * self.dep_conv.weight
        mixing = self.fc.weight.flatten(1)  # (Kc², 3h)
        convolution = acmix_convolution(qkv, mixing, kernels, self.num_heads, **geometry)
        # under autocast the branches are in half precision, the rate is in float32
        return torch.addcmul(convolution, self.rate1.to(attention.dtype), attention)

    def _project(self, x: Tensor) -> Tensor:
        """Project x to concatenated queries, keys and values ``(B, 3 · out_channels, H, W)``."""
        layers = (self.conv1, self.conv2, self.conv3)
        if self.conv1.groups > 1:
            return torch.cat([layer(x) for layer in layers], 1)
        weight = torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return F.conv2d(x, weight, torch.cat(biases) if biases else None)

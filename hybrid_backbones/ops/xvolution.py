"""X-volution: a convolution and a self-attention branch that merge into one after training.

Chen et al., "X-volution: On the Unification of Convolution and Self-attention", 2021,
https://arxiv.org/abs/2106.02253. The one idea: global attention is approximately a convolution of
local attention, so the branch sums shifted maps weighted by products of two pixels. As these
weights are not normalised over positions, this branch and a parallel convolution merge into one
convolution with an input-dependent kernel.

No code was published and the paper leaves choices open; ours are marked as "our reading".
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..layers import join_groups, require_divides, to_maps, to_tokens
from ..recompute import recompute_before_last
from .pixel_shift_attention import pixel_shift_attention, validate_settings
from .softmax_attention import full_attention
from .validation import require_same_padding

ATTENTIONS = ("shift", "global")


def global_attention(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int = 1) -> Tensor:
    """Compute multi-head attention to all pixels, ``softmax(query keyᵀ / √d) value``.

    Args:
        query: queries ``(B, C, H', W')``, channels head-major.
        key: keys ``(B, C, H, W)``.
        value: values ``(B, C, H, W)``.
        num_heads: number of attention heads h, of ``d = C / h`` channels; must divide C.

    Returns:
        Attention output ``(B, C, H', W')``.
    """
    out = full_attention(*map(to_tokens, (query, key, value)), num_heads=num_heads)
    return to_maps(out, query.shape[2:])


class _XVolutionBase(nn.Module):
    """Settings and static kernel common to an X-volution before and after merging."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        dilation: int,
        bias: bool,
        groups: int,
        num_heads: int,
        attn_backend: str | None,
    ):
        super().__init__()
        require_divides(num_heads=num_heads, out_channels=out_channels)
        validate_settings(kernel_size, stride, dilation, attn_backend)
        require_same_padding(padding, kernel_size, dilation)
        self.num_heads = num_heads
        self.attn_backend = attn_backend
        self.padding = padding
        self.geometry: dict[str, Any] = dict(
            kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        self.conv = nn.Conv2d(
            in_channels, out_channels, **self.geometry, padding=padding, groups=groups, bias=bias
        )

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        return pixel_shift_attention(
            query,
            key,
            value,
            num_heads=self.num_heads,
            backend=self.attn_backend,
            dtype=dtype,
            **self.geometry,
        )


class XVolution(_XVolutionBase):
    """Sum of a convolution and a self-attention branch, each with batch normalisation::

        out = conv_bn(conv(x)) + attention_bn(attention(query(x), key(x), value(x)))

    A drop-in replacement for a convolution: mmdet's and mmseg's ResNets accept
    ``dcn=dict(type='XVolution')`` and mmcv's ``build_conv_layer`` builds it. The output has
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns for any input size. Blocks keep the
    normalisation after their convolution.

    After training, :meth:`merge` converts it to one dynamic convolution. The pixel-shift attention
    is our reading of the paper: the weights ``query · shifted key`` are not normalised; the offsets
    are those of the kernel including its centre, so that the merged kernel has the convolution's
    support; the border is zero-padded; the attention is applied once, without a further weighted
    sum; with a stride both branches are computed at the convolution's positions. The paper reports
    results of global attention without saying whether it encodes positions; here
    ``attention='global'`` does not.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels, a multiple of `num_heads`.
        kernel_size: side of the kernel and of the grid of shifts, odd.
        stride: stride of both branches, in pixels.
        padding: must be ``dilation * (kernel_size // 2)``, which keeps the size at stride 1.
        dilation: dilation of the convolution and the shifts, in pixels.
        bias: whether the convolution has a bias, which its batch normalisation cancels in training.
        groups: number of groups of the convolution and all projections.
        num_heads: number of attention heads; 1 is the formula of the paper.
        attention: ``'shift'``, or ``'global'`` for softmax attention to all pixels.
        attn_backend: backend of :func:`pixel_shift_attention`.

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
        bias: bool = False,
        *,
        groups: int = 1,
        num_heads: int = 1,
        attention: str = "shift",
        attn_backend: str | None = None,
    ):
        settings = (in_channels, out_channels, kernel_size, stride, padding, dilation)
        super().__init__(*settings, bias, groups, num_heads, attn_backend)
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {ATTENTIONS}, got {attention!r}")
        if attention == "global" and attn_backend is not None:
            raise ValueError(f"attention='global' supports no backends, got {attn_backend=}")
        self.attention = attention
        self.conv_bn = nn.BatchNorm2d(out_channels)
        pointwise: dict[str, Any] = dict(kernel_size=1, groups=groups, bias=False)
        # queries at output positions only, keys and values at all pixels
        self.query = nn.Conv2d(in_channels, out_channels, stride=stride, **pointwise)
        self.key = nn.Conv2d(in_channels, out_channels, **pointwise)
        self.value = nn.Conv2d(in_channels, out_channels, **pointwise)
        self.attention_bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
        # softmax and the definition would run again in the backward pass, not only the projections
        is_lean = self.attention == "shift" and self.attn_backend != "reference"
        projections = self.query, self.key, self.value
        attention = (
            recompute_before_last(self._attend_to, x, modules=projections)
            if is_lean
            else self._attend_to(x)
        )
        convolution = self.conv_bn(self.conv(x))
        return convolution + self.attention_bn(attention).to(convolution.dtype)

    def _attend_to(self, x: Tensor) -> Tensor:
        projections = self.query(x), self.key(x), self.value(x)
        if self.attention == "global":
            return global_attention(*projections, num_heads=self.num_heads)
        # cubic in x: half precision would overflow before the normalisation
        return self.attend(*projections, dtype=self.attention_bn.weight.dtype)

    @torch.no_grad()
    def merge(self) -> "MergedXVolution":
        """Return the dynamic convolution that is equivalent to this module in evaluation mode.

        With ``s, t`` the scale and shift of each batch normalisation, its kernel at p is ``s_conv
        conv_δ + s_attention a_δ(p) value`` for each offset δ, its bias ``t_conv + t_attention``.

        Raises:
            ValueError: if the module is in training mode or has global attention.
        """
        if any(module.training for module in self.modules()):
            raise ValueError(
                "merge() needs evaluation mode, because batch normalisation depends on the batch "
                "in training mode: call eval() after training"
            )
        if self.attention == "global":
            raise ValueError(
                "attention='global' cannot be merged, because softmax attention to all pixels is "
                "not a convolution with a kernel of fixed size; use attention='shift'"
            )
        conv = self.conv
        merged = MergedXVolution(
            conv.in_channels,
            conv.out_channels,
            padding=self.padding,
            groups=conv.groups,
            num_heads=self.num_heads,
            attn_backend=self.attn_backend,
            **self.geometry,
        ).to(conv.weight)
        conv_scale, conv_shift = _scale_and_shift(self.conv_bn)
        attention_scale, attention_shift = _scale_and_shift(self.attention_bn)
        bias = 0 if conv.bias is None else conv_scale * conv.bias
        value = _scale_rows(attention_scale, self.value.weight)
        weights = _balance(torch.stack([self.query.weight, self.key.weight, value]))
        by_group = weights.unflatten(1, (conv.groups, -1)).transpose(0, 1)
        entries = {
            "conv.weight": _scale_rows(conv_scale, conv.weight),
            "conv.bias": bias + conv_shift + attention_shift,
            "qkv.weight": by_group.flatten(0, 2),
        }
        merged.load_state_dict(entries)
        return merged.eval()


class MergedXVolution(_XVolutionBase):
    """Convolution with an input-dependent kernel, the result of :meth:`XVolution.merge`::

        K_δ(p) = conv_δ + a_δ(p) value,   a_δ(p) = query x(p) · key x(p + δ) / √d
        out(p) = bias + Σ_δ K_δ(p) x(p + δ)

    The kernels are not materialised: the static part is a convolution, and the dynamic part weights
    the values of x. One convolution computes query, key and value.

    The arguments are those of :class:`XVolution` without `attention`. `bias` has no effect, since
    the merged convolution always has one; it is accepted because `build_conv_layer` passes it.
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
        num_heads: int = 1,
        attn_backend: str | None = None,
    ):
        settings = (in_channels, out_channels, kernel_size, stride, padding, dilation)
        super().__init__(*settings, True, groups, num_heads, attn_backend)
        self.qkv = nn.Conv2d(in_channels, 3 * out_channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``."""
        if self.qkv.groups == 1:
            query, key, value = self.qkv(x).chunk(3, 1)
        else:
            by_group = self.qkv(x).unflatten(1, (self.qkv.groups, 3, -1))
            query, key, value = map(join_groups, by_group.unbind(2))
        stride = self.geometry["stride"]
        return self.conv(x) + self.attend(query[..., ::stride, ::stride], key, value)


def merge_xvolutions(model: nn.Module) -> int:
    """Replace every X-volution inside a model by its merged form, in place.

    Returns:
        Number of merged X-volutions.

    Raises:
        ValueError: if one is in training mode or has global attention, if the model has none, or if
            it is one itself and so cannot be replaced; the model is then unchanged.
    """
    if isinstance(model, XVolution):
        raise ValueError("an XVolution cannot replace itself: use the result of its merge()")
    # one that is shared has several names
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, XVolution)
    }
    if not found:
        raise ValueError(f"{type(model).__name__} has no X-volution to merge")
    merged = {module: module.merge() for module in dict.fromkeys(found.values())}
    for name, module in found.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, merged[module])
    return len(merged)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return batch normalisation in evaluation mode as ``x · scale + shift``, in float64."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    return scale, norm.bias - mean * scale


def _balance(weights: Tensor) -> Tensor:
    """Scale the factors ``(3, ...)`` to similar magnitudes by powers of two with product one.

    Large activations give a small normalisation scale, which would underflow in half precision.
    """
    sizes = weights.abs().amax(tuple(range(1, weights.ndim)), keepdim=True)
    exponents = torch.where(sizes > 0, sizes, 1).log2()
    steps = (exponents.mean(0) - exponents).round()[:2]
    return weights * torch.cat([steps, -steps.sum(0, keepdim=True)]).exp2()


def _scale_rows(scale: Tensor, weight: Tensor) -> Tensor:
    return scale[:, None, None, None] * weight

"""Subjects of the benchmarks: operators with their implementations, and backbones."""

from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.swin_transformer import shifted_window_attention as torchvision_attention

from ..backbones import (
    ACmixResNet,
    ACmixSwin,
    BiFormer,
    MixFormer,
    SwiftFormer,
    UniFormer,
    UniFormerLight,
    XVolutionResNet,
)
from ..layers import pad_to_multiple
from ..ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    EfficientAdditiveAttention,
    GlobalRelationAggregator,
    LocalRelationAggregator,
    MergedXVolution,
    MixingAttention,
    XVolution,
    local_attention,
    shifted_window_attention,
)
from .settings import Settings

# settings of all layers
CHANNELS, HEADS, WINDOW = 64, 4, 7


class WindowAttention(nn.Module):
    """Shifted-window self-attention with padded borders and Swin's projections.

    Args:
        reference: whether to use torchvision's function instead of ours.
    """

    def __init__(self, reference: bool):
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False)
        self.proj = nn.Linear(CHANNELS, CHANNELS)
        self.bias = nn.Parameter(torch.randn(HEADS, WINDOW**2, WINDOW**2))
        self.attend = self._attend_by_torchvision if reference else self._attend

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention to a feature map ``(B, C, H, W)``, and return one of that shape."""
        return self.attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = self.qkv(pad_to_multiple(x, WINDOW).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        query, key, value = x.chunk(3, 1)
        x = shifted_window_attention(query, key, value, self.bias, WINDOW, WINDOW // 2)
        return self.proj(x.permute(0, 2, 3, 1)[:, :height, :width]).permute(0, 3, 1, 2)

    def _attend_by_torchvision(self, x: Tensor) -> Tensor:
        weights = self.qkv.weight, self.proj.weight, self.bias[None]
        places = [WINDOW] * 2, HEADS, [WINDOW // 2] * 2
        x = x.permute(0, 2, 3, 1)
        out = torchvision_attention(x, *weights, *places, proj_bias=self.proj.bias)
        return out.permute(0, 3, 1, 2)


def _make_attention(backend: str, settings: Settings) -> tuple[Callable, list[Tensor]]:
    shape = (settings.batch, HEADS, CHANNELS // HEADS, *settings.size)
    maps = [torch.randn(shape, **settings.kind) for _ in range(3)]
    return partial(local_attention, kernel_size=7, backend=backend), maps


def _make_layer(layer: Callable, settings: Settings) -> tuple[Callable, list[Tensor]]:
    x = torch.randn(settings.batch, CHANNELS, *settings.size, **settings.kind)
    return layer().to(**settings.kind), [x]


def _layer(layer: Callable, *args, **kwargs) -> Callable[[Settings], tuple]:
    return partial(_make_layer, partial(layer, *args, **kwargs))


# implementations by operator; ratios refer to the one called `reference`, if there is one
OPERATORS: dict[str, dict[str, Callable[[Settings], tuple]]] = {
    "local_attention": {
        backend: partial(_make_attention, backend) for backend in ("tiled", "triton", "reference")
    },
    "ACmix": {
        backend: _layer(ACmix, CHANNELS, CHANNELS, attn_backend=backend)
        for backend in ("tiled", "triton", "reference")
    },
    "BiLevelRoutingAttention": {
        backend: _layer(BiLevelRoutingAttention, CHANNELS, 2, 16, 1, attn_backend=backend)
        for backend in ("chunked", "triton", "reference")
    },
    "XVolution": {
        backend: _layer(XVolution, CHANNELS, CHANNELS, attn_backend=backend)
        for backend in ("shifted", "triton", "reference")
    },
    "MergedXVolution": {
        backend: _layer(MergedXVolution, CHANNELS, CHANNELS, attn_backend=backend)
        for backend in ("shifted", "triton")
    },
    "shifted_window_attention": {
        "ours": _layer(WindowAttention, reference=False),
        "reference": _layer(WindowAttention, reference=True),
    },
    "ACmixWindow": {"ours": _layer(ACmixWindow, CHANNELS, HEADS, WINDOW, WINDOW // 2)},
    "MixingAttention": {"ours": _layer(MixingAttention, CHANNELS, HEADS)},
    "EfficientAdditiveAttention": {"ours": _layer(EfficientAdditiveAttention, CHANNELS)},
    "LocalRelationAggregator": {"ours": _layer(LocalRelationAggregator, CHANNELS)},
    "GlobalRelationAggregator": {
        "14×14": _layer(GlobalRelationAggregator, CHANNELS, CHANNELS // HEADS, window_size=14)
    },
    "Conv2d": {"3×3": _layer(nn.Conv2d, CHANNELS, CHANNELS, 3, padding=1)},
}


def _make_baseline(make: Callable[[], nn.Module], *dropped: str) -> nn.Module:
    model = make()
    for name in dropped:  # layers after the last feature map
        setattr(model, name, nn.Identity())
    return model


BACKBONES = {
    "ResNet-50": partial(_make_baseline, torchvision.models.resnet50, "avgpool", "fc"),
    "Swin-T": partial(_make_baseline, torchvision.models.swin_t, "avgpool", "head"),
    **{f"ACmixResNet-{depth}": partial(ACmixResNet, depth) for depth in (26, 38, 50, 101)},
    **{f"ACmixSwin-{arch}": partial(ACmixSwin, arch) for arch in ("tiny", "small")},
    **{f"BiFormer-{arch}": partial(BiFormer, arch) for arch in ("tiny", "small", "base")},
    **{f"MixFormer-b{i}": partial(MixFormer, f"b{i}") for i in range(7)},
    **{f"SwiftFormer-{arch}": partial(SwiftFormer, arch) for arch in ("xs", "s", "l1", "l3")},
    **{
        f"UniFormer-{arch}": partial(UniFormer, arch, attention="hybrid")
        for arch in ("small", "base")
    },
    **{f"UniFormerLight-{arch}": partial(UniFormerLight, arch) for arch in ("xxs", "xs")},
    **{f"XVolutionResNet-{depth}": partial(XVolutionResNet, depth) for depth in (18, 34, 50, 101)},
}

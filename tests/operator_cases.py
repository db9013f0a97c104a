"""The operators that every test of the contract of operators goes through, and their weights."""

import pytest
import torch
from torch import nn

from hybrid_backbones.locformer.fusion import CrossFusion, SketchMixer, StageFusion
from hybrid_backbones.ops import (
    ACmix,
    ACmixWindow,
    BiLevelRoutingAttention,
    EfficientAdditiveAttention,
    GlobalRelationAggregator,
    LocalRelationAggregator,
    MergedXVolution,
    MixingAttention,
    XVolution,
    efficient_additive_attention,
    local_attention,
    pixel_shift_attention,
    routed_attention,
    shifted_window_attention,
)
from hybrid_backbones.ops.acmix import acmix_attention
from hybrid_backbones.ops.biformer import BiLevelRoutingAttention2d
from hybrid_backbones.ops.lepe_attention import AttentionLePE, AttentionLePE2d

CHANNELS = 16
FUSION = dict(hidden_dims=12, num_heads=2, dropout=0.0)


class Of(nn.Module):
    """Apply a function of an operator and a map."""

    def __init__(self, function, operator=None):
        super().__init__()
        self.function, self.operator = function, operator

    def forward(self, x):
        return self.function(self.operator, x) if self.operator else self.function(x)


def three(x):
    """Make a query, a key and a value from one map."""
    return x, 0.5 * x, x.sin()


def guide(fusion, x):
    """Fuse x with two sketches."""
    sketch = torch.linspace(-2, 2, 2 * CHANNELS * 6).view(1, 2, CHANNELS, 2, 3)
    return fusion(x, sketch.to(x).expand(len(x), -1, -1, -1, -1))


def fuse_tokens(fusion, x):
    """Fuse the tokens of x with themselves, reversed."""
    tokens = x.flatten(2).transpose(1, 2)
    return fusion(tokens, tokens.cos(), tokens.flip(1), tokens.sin())


def window_bias(x, heads=2, side=3):
    return torch.linspace(-1, 1, heads * side**4).view(heads, side**2, side**2).to(x)


def route(x):
    """Attend from four regions of x to two each."""
    regions = x.flatten(2).transpose(1, 2).unflatten(1, (4, -1))
    routes = torch.tensor([[[0, 1], [3, 1], [2, 0], [1, 2]]]).expand(len(x), -1, -1)
    return routed_attention(*three(regions), routes, 2)


# each makes a module of maps of `CHANNELS` channels
MAP_OPERATORS = {
    "ACmix": lambda: ACmix(CHANNELS, CHANNELS, attn_kernel_size=3),
    "ACmix, one head, stride 2": lambda: ACmix(CHANNELS, CHANNELS, stride=2, num_heads=1),
    "ACmix, groups": lambda: ACmix(CHANNELS, CHANNELS, groups=2),
    "acmix_attention": lambda: Of(lambda x: acmix_attention(*three(x), x[:1, :4], 4, 3)),
    "ACmixWindow": lambda: ACmixWindow(CHANNELS, 2, 3),
    "ACmixWindow, shifted": lambda: ACmixWindow(CHANNELS, 2, 3, 1),
    "XVolution": lambda: XVolution(CHANNELS, CHANNELS, num_heads=2),
    "XVolution, stride 2": lambda: XVolution(CHANNELS, CHANNELS, stride=2),
    "XVolution, global": lambda: XVolution(CHANNELS, CHANNELS, attention="global"),
    "XVolution, global, stride 2": lambda: XVolution(
        CHANNELS, CHANNELS, stride=2, num_heads=2, attention="global"
    ),
    "MergedXVolution": lambda: MergedXVolution(CHANNELS, CHANNELS, num_heads=2),
    "MergedXVolution, groups": lambda: MergedXVolution(CHANNELS, CHANNELS, groups=2),
    "pixel_shift_attention": lambda: Of(lambda x: pixel_shift_attention(*three(x), num_heads=2)),
    "pixel_shift_attention, reference": lambda: Of(
        lambda x: pixel_shift_attention(*three(x), num_heads=2, backend="reference")
    ),
    "shifted_window_attention": lambda: Of(
        lambda x: shifted_window_attention(*three(x), window_bias(x), 3, 1)
    ),
    "AttentionLePE": lambda: AttentionLePE(CHANNELS, 2),
    "AttentionLePE2d": lambda: AttentionLePE2d(CHANNELS, 2),
    "BiLevelRoutingAttention": lambda: BiLevelRoutingAttention(CHANNELS, 2, 2, 2),
    "BiLevelRoutingAttention2d": lambda: BiLevelRoutingAttention2d(CHANNELS, 2, 2, 2),
    "EfficientAdditiveAttention": lambda: EfficientAdditiveAttention(CHANNELS),
    "EfficientAdditiveAttention, first release": lambda: EfficientAdditiveAttention(
        CHANNELS, 8, 2, first_release=True
    ),
    "MixingAttention": lambda: MixingAttention(CHANNELS, 2, 3),
    "GlobalRelationAggregator": lambda: GlobalRelationAggregator(CHANNELS, 8),
    "GlobalRelationAggregator, windows": lambda: GlobalRelationAggregator(
        CHANNELS, 8, window_size=3
    ),
    "LocalRelationAggregator": lambda: LocalRelationAggregator(CHANNELS),
    "StageFusion": lambda: Of(guide, StageFusion(CHANNELS, CHANNELS, num_groups=4, **FUSION)),
    "SketchMixer": lambda: Of(
        lambda mixer, x: mixer(torch.stack([x, x.sin()], 1)), SketchMixer(CHANNELS, **FUSION)
    ),
}
# those whose results are no maps
TOKEN_OPERATORS = {
    "CrossFusion": lambda: Of(fuse_tokens, CrossFusion(CHANNELS, **FUSION)),
    "efficient_additive_attention": lambda: Of(
        lambda x: efficient_additive_attention(
            *(y.flatten(2).transpose(1, 2) for y in (x, x.sin())), x[0, :, :1, 0]
        )
    ),
    "local_attention": lambda: Of(
        lambda x: local_attention(*(y.unflatten(1, (2, -1)) for y in three(x)), 3)
    ),
    "routed_attention": lambda: Of(route),
}
each_map_operator = pytest.mark.parametrize("make", MAP_OPERATORS.values(), ids=MAP_OPERATORS)
EVERY = {**MAP_OPERATORS, **TOKEN_OPERATORS}
each_operator = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def make_uneven(module):
    """Give a module biases, scales and statistics that matter, no two of them equal."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if "bias" in name:
                nn.init.normal_(parameter, std=0.3)
            elif parameter.numel() == max(parameter.shape):
                nn.init.uniform_(parameter, 0.5, 1.5)
        if getattr(part, "running_var", None) is not None:
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module

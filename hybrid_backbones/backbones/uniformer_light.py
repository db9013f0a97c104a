"""UniFormerLight: a small UniFormer that updates its uninformative tokens jointly.

Li et al., "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition", TPAMI 2023,
https://arxiv.org/abs/2201.09450, with the slow-fast token evolution of Evo-ViT (Xu et al., AAAI
2022, https://arxiv.org/abs/2108.01390), here called token pruning: in stages 3 and 4 a block
processes the class token, the half of the tokens that it attends to most (the first block all), and
a weighted mean of the others, whose update is added to all of these others.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    DropPath,
    LayerNorm2d,
    Mlp,
    PatchEmbed,
    conv_stem,
    depthwise_conv,
    init_linear_layers,
    join_heads,
    split_heads,
    to_maps,
    to_tokens,
)
from ..ops.uniformer import (
    apply_order,
    class_token_score,
    count_heads,
    invert_order,
    num_kept_tokens,
    order_by_score,
    pool_score,
    representative_token,
    update_score,
)
from .arch import read_arch
from .base import HierarchicalBackbone, Parts
from .names import PublishedNames
from .uniformer import STAGE_RULES, BlockNorm, LocalBlock, patch_embed

MLP_RATIO = 3
# share of the tokens that a block processes individually
KEEP_RATIO = 0.5
# weight of a block's own scores in the running scores
TRADE_OFF = 0.5


class ScoredTokens(NamedTuple):
    """Feature map, class token and scores, the input and output of the blocks of stages 3 and 4.

    The published code keeps the scores in a global variable.
    """

    map: Tensor  # (B, C, H, W)
    cls: Tensor  # (B, 1, C), the class token
    score: Tensor  # (B, H·W), the running score


class ClassTokenEmbed(PatchEmbed):
    """Patch embedding before stage 3, with a learned class token and scores of zero.

    Args:
        in_channels: number of input channels.
        embed_dims: number of output channels.
    """

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__(in_channels, embed_dims, 2, LayerNorm2d)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))

    def forward(self, x: Tensor) -> ScoredTokens:  # type: ignore[override]  # not only a map
        """Embed a feature map ``(B, in_channels, H, W)`` at half its size, rounded down."""
        maps = super().forward(x)
        dtype = torch.promote_types(maps.dtype, torch.float32)
        batch, _, height, width = maps.shape
        score = maps.new_zeros(batch, height * width, dtype=dtype)
        return ScoredTokens(maps, self.cls_token.expand(batch, -1, -1), score)


class ScoredPatchEmbed(PatchEmbed):
    """Patch embedding before stage 4, which also projects the class token and pools the scores.

    Args:
        in_channels: number of input channels of feature map and class token.
        embed_dims: number of output channels of both.
    """

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__(in_channels, embed_dims, 2, LayerNorm2d)
        self.cls_upsample = nn.Linear(in_channels, embed_dims)

    def forward(self, x: ScoredTokens) -> ScoredTokens:  # type: ignore[override]  # not only a map
        """Embed the feature map, class token and scores at half the size, rounded down."""
        height, width = x.map.shape[2:]
        score = pool_score(x.score, (height, width))
        return ScoredTokens(super().forward(x.map), self.cls_upsample(x.cls), score)


class ScoringAttention(nn.Module):
    """Multi-head self-attention that also scores tokens by the attention of the class token.

    Args:
        embed_dims: number of channels of the tokens.
        head_dims: number of channels per head, which must divide `embed_dims`.
    """

    def __init__(self, embed_dims: int, head_dims: int):
        super().__init__()
        self.num_heads = count_heads(embed_dims, head_dims)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, 1 + N, C)``, the class token first, to the same shape and scores ``(B, N)``."""
        qkv = self.qkv(tokens).chunk(3, -1)
        query, key, value = (split_heads(x, self.num_heads) for x in qkv)
        out = F.scaled_dot_product_attention(query, key, value)  # (B, h, 1 + N, d)
        return self.proj(join_heads(out)), class_token_score(query, key)


class TokenPruningBlock(nn.Module):
    """Transformer block with position encoding and token pruning.

    Attention and MLP process the class token, the tokens with the highest scores and one
    representative of the others, whose update is added to all of these others.

    Args:
        embed_dims: number of channels of the tokens.
        head_dims: number of channels per head, which must divide `embed_dims`.
        drop_path_rate: stochastic depth rate of the attention and the MLP.
        keep_ratio: share of the tokens that are processed individually.
        trade_off: weight of the block's own score in the running score.
    """

    def __init__(
        self,
        embed_dims: int,
        head_dims: int,
        drop_path_rate: float,
        *,
        keep_ratio: float = KEEP_RATIO,
        trade_off: float = TRADE_OFF,
    ):
        super().__init__()
        self.keep_ratio = keep_ratio
        self.trade_off = trade_off
        self.pos_embed = depthwise_conv(embed_dims, 3)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = ScoringAttention(embed_dims, head_dims)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = Mlp(embed_dims, embed_dims * MLP_RATIO)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: ScoredTokens) -> ScoredTokens:
        """Update the map, the class token and the scores; all keep their shapes."""
        tokens = to_tokens(x.map + self.pos_embed(x.map))  # (B, N, C)
        num_kept = num_kept_tokens(tokens.shape[1], self.keep_ratio)
        order = order_by_score(x.score)
        inverse = invert_order(order)
        score = apply_order(x.score, order)
        tokens = apply_order(tokens, order)
        kept, dropped = tokens[:, :num_kept], tokens[:, num_kept:]
        # the slice is empty if no token is dropped
        representative = representative_token(dropped, score[:, num_kept:])[:, : dropped.shape[1]]
        parts = [x.cls, kept, representative]
        updated, branches, new_score = self._update(torch.cat(parts, 1))
        # without stochastic depth, as published; if nothing is dropped, this adds to no token
        dropped = dropped + branches[:, -1:]
        cls, kept = updated[:, :1], updated[:, 1 : num_kept + 1]
        score = update_score(score, new_score[:, :num_kept], self.trade_off)
        tokens = apply_order(torch.cat([kept, dropped], 1), inverse)
        return ScoredTokens(to_maps(tokens, x.map.shape[2:]), cls, apply_order(score, inverse))

    def _update(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the updated tokens, the sum of both residual branches, and the scores."""
        attended, score = self.attn(self.norm1(tokens))
        tokens = tokens + self.drop_path(attended)
        mixed = self.mlp(self.norm2(tokens))
        return tokens + self.drop_path(mixed), attended + mixed, score


class PairedNorm(nn.Module):
    """Norms of the feature map and the class token, which have separate classifiers.

    Args:
        embed_dims: number of channels of both.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        self.map_norm = nn.BatchNorm2d(embed_dims)
        self.cls_norm = nn.LayerNorm(embed_dims)

    def forward(self, x: ScoredTokens) -> tuple[Tensor, Tensor]:
        """Return the feature map ``(B, C, H, W)`` and the class token as ``(B, C, 1, 1)``."""
        return self.map_norm(x.map), self.cls_norm(x.cls)[:, 0, :, None, None]


# https://github.com/Sense-X/UniFormer, light networks
VARIANTS = {
    "xxs": dict(depths=(2, 5, 8, 2), embed_dims=(56, 112, 224, 448), head_dims=28),
    "xs": dict(depths=(3, 5, 9, 3), embed_dims=(64, 128, 256, 512), head_dims=32),
}


@MODELS.register_module()
class UniFormerLight(HierarchicalBackbone):
    """Light UniFormer backbone for images of any size.

    The feature maps have strides 4, 8, 16 and 32. As published, the stem rounds their sides up and
    the later stages round them down. With ``out_norm='final'``, the normalised class token follows
    the last map as ``(B, C, 1, 1)``, for a classifier with average pooling and a
    ``PairedLinearHead(average=False)``, as published.

    Args:
        arch: key of `VARIANTS`, or a dict with the same keys as its rows.
        **kwargs: arguments of :class:`HierarchicalBackbone`.
    """

    published = PublishedNames(
        rename=(
            *STAGE_RULES,
            (r"^cls_token$", "stages.2.downsample.cls_token"),
            (r"^cls_upsample\.", "stages.3.downsample.cls_upsample."),
            (r"^norm\.", "final_norm.map_norm."),
            (r"^norm_cls\.", "final_norm.cls_norm."),
            (r"^head_cls\.", "head.paired_fc."),
        )
    )

    def __init__(self, arch: str | Mapping[str, Any] = "xxs", **kwargs: Any):
        sizes = read_arch(arch, VARIANTS)
        channels = sizes["embed_dims"]
        downsamples = (patch_embed, ClassTokenEmbed, ScoredPatchEmbed)

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            if stage < 2:
                return LocalBlock(channels[stage], MLP_RATIO, rate)
            # there are no scores yet: the first block keeps all tokens, and only its scores count
            first = dict(keep_ratio=1, trade_off=1) if (stage, index) == (2, 0) else {}
            return TokenPruningBlock(channels[stage], sizes["head_dims"], rate, **first)

        parts = Parts(
            channels,
            sizes["depths"],
            stem=lambda: conv_stem(channels[0], nn.GELU),
            block=make_block,
            downsample=lambda stage: downsamples[stage - 1](*channels[stage - 1 : stage + 1]),
            norm=BlockNorm,
            final_norm=PairedNorm,
            initialise=init_linear_layers,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, **kwargs)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Number of channels of each output, of which the class token is the last, if it is one."""
        channels = super().out_channels
        return (*channels, channels[-1]) if self.out_norm == "final" else channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, 3, H, W)`` to the maps of `out_indices`, ``(B, C_i, H_i, W_i)``.

        With ``out_norm='final'``, the class token follows as ``(B, C, 1, 1)``.
        """
        outs = super().forward(x)
        return (*outs[:-1], *outs[-1]) if self.out_norm == "final" else outs

    def normalise(self, stage: int, x: Any) -> Any:
        """Return the feature map of a stage after its output norm, if it has one.

        With ``out_norm='final'``, that of the last stage comes with the normalised class token.
        """
        if stage < 2 or (stage == 3 and self.out_norm == "final"):
            return super().normalise(stage, x)
        return super().normalise(stage, x.map)

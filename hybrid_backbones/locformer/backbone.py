"""Swin Transformer with detection tokens (RAM) and a sketch fused into each stage.

Tripathi et al., "Query-guided Attention in Vision Transformers for Localizing Objects Using a
Single Sketch", WACV 2024, https://arxiv.org/abs/2303.08784, on the backbone of Song et al., "ViDT:
An Efficient and Effective Fully Transformer-based Object Detector", ICLR 2022,
https://arxiv.org/abs/2110.03921. The idea of RAM, the Reconfigured Attention Module: learned
detection tokens, one per object query, pass through the layers of a Swin Transformer beside its
patches, with the same weights; in the last stage they attend to all patches and become the queries
of the decoder.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..backbones.acmix_swin import VARIANTS, PaddedPatchEmbed, gather_patches
from ..backbones.arch import read_arch
from ..backbones.base import Parts, StagedNetwork
from ..backbones.names import SWIN_COMPUTED, SWIN_RULES, PublishedNames
from ..layers import (
    DropPath,
    LayerNorm2d,
    Mlp,
    RelativePositionBias,
    init_linear_layers,
    join_heads,
    pad_to_multiple,
    split_heads,
    to_maps,
    to_tokens,
)
from ..ops.window_attention import shifted_window_attention
from .fusion import StageFusion, sine_positions
from .guidance import GuidedFeatures, bind_sketch


class RAMFeatures(NamedTuple):
    """Feature map and detection tokens, the input and output of each block."""

    map: Tensor  # (B, C, H, W), feature map of the patches
    tokens: Tensor  # (B, N, C), detection tokens
    positions: Tensor  # (1, N, C'), position embedding of the detection tokens
    padding: Tensor  # (B, H', W'), padding mask of the images, True for padding


def resize_padding(padding: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize a padding mask ``(B, H', W')`` to the height and width `size` of a map."""
    return F.interpolate(padding[:, None].float(), size)[:, 0] > 0


def padded_positions(padding: Tensor, channels: int) -> Tensor:
    """Encode the positions of a map by sines, with the unpadded part scaled to 2π.

    Args:
        padding: padding mask of the map, ``(B, H, W)``, True for padding.
        channels: number of encoding channels C; must be a multiple of 4.

    Returns:
        position encoding, ``(B, H·W, C)``.
    """
    valid_mask = (~padding).float()
    rows, columns = valid_mask.cumsum(1), valid_mask.cumsum(2)
    rows = rows / (rows[:, -1:] + 1e-6) * 2 * torch.pi
    columns = columns / (columns[:, :, -1:] + 1e-6) * 2 * torch.pi
    return sine_positions(rows.flatten(1), columns.flatten(1), channels)


class ReconfiguredAttention(RelativePositionBias):
    """Self-attention of patches within windows and of detection tokens, with shared weights.

    As published, the zeros that pad a map to whole windows take part in the attention.

    Args:
        embed_dims: number of channels of patches and tokens.
        num_heads: number of attention heads; must divide `embed_dims`.
        window_size: side of the windows, in positions.
        shift: offset of the windows, in positions; from 0 to below `window_size`.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int, shift: int):
        super().__init__(window_size, num_heads)
        self.shift = shift
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def patch_attention(self, x: Tensor) -> Tensor:
        """Compute window attention over a map ``(B, C, H, W)``, returned as ``(B, H·W, C)``."""
        height, width = x.shape[2:]
        x = pad_to_multiple(x, self.window_size).permute(0, 2, 3, 1)
        query, key, value = self.qkv(x).permute(0, 3, 1, 2).chunk(3, 1)
        bias = self.relative_position_bias().to(query.dtype)
        out = shifted_window_attention(query, key, value, bias, self.window_size, self.shift)
        return self.proj(to_tokens(out[:, :, :height, :width]))

    def token_attention(
        self, tokens: Tensor, patches: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Compute the attention of detection tokens to each other and, optionally, to patches.

        Args:
            tokens: detection tokens with their positions added, ``(B, N, C)``.
            patches: further tokens to attend to: all patches with their positions added,
                ``(B, M, C)``, and their padding mask, ``(B, M)``, True for padding.

        Returns:
            output of the attention, ``(B, N, C)``.
        """
        query, key, value = self.qkv(tokens).chunk(3, 2)
        mask = None
        if patches is not None:
            x, padding = patches
            # no queries, since patches do not attend to detection tokens
            weight, bias = (p[tokens.shape[2] :] for p in (self.qkv.weight, self.qkv.bias))
            patch_key, patch_value = F.linear(x, weight, bias).chunk(2, 2)
            key, value = torch.cat([key, patch_key], 1), torch.cat([value, patch_value], 1)
            # detection tokens, which come first, have no padding
            mask = F.pad(~padding, (tokens.shape[1], 0), value=True)[:, None, None]
        query, key, value = (split_heads(x, self.num_heads) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(join_heads(out))


class RAMBlock(nn.Module):
    """Transformer block over patches and detection tokens: attention, then MLP, both residual.

    Args:
        embed_dims: number of channels of patches and tokens.
        pos_dims: number of channels of the position embedding of the tokens.
        drop_path_rate: stochastic depth rate of both branches.
        cross_attention: whether the tokens attend to the patches, too, not only to each other.
        **kwargs: settings of :class:`ReconfiguredAttention`.
    """

    def __init__(
        self,
        embed_dims: int,
        pos_dims: int,
        drop_path_rate: float,
        cross_attention: bool,
        **kwargs,
    ):
        super().__init__()
        self.cross_attention = cross_attention
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = ReconfiguredAttention(embed_dims, **kwargs)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = Mlp(embed_dims, 4 * embed_dims)
        self.det_pos_linear = nn.Linear(pos_dims, embed_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: RAMFeatures) -> RAMFeatures:
        """Update the map and the tokens, keeping their shapes."""
        size, num_patches = x.map.shape[2:], x.map[0, 0].numel()
        features = torch.cat([to_tokens(x.map), x.tokens], 1)  # (B, H·W + N, C)
        patches, tokens = self.norm1(features).tensor_split([num_patches], 1)
        tokens = tokens + self.det_pos_linear(x.positions)
        keys = _add_positions(patches, size, x.padding) if self.cross_attention else None
        patches = self.attn.patch_attention(to_maps(patches, size))
        tokens = self.attn.token_attention(tokens, keys)
        features = features + self.drop_path(torch.cat([patches, tokens], 1))
        features = features + self.drop_path(self.mlp(self.norm2(features)))
        patches, tokens = features.tensor_split([num_patches], 1)
        return x._replace(map=to_maps(patches, size), tokens=tokens)


def _add_positions(patches: Tensor, size: torch.Size, padding: Tensor) -> tuple[Tensor, Tensor]:
    """Return patches ``(B, H·W, C)`` with positions added, and their padding mask ``(B, H·W)``."""
    # as published, first to whole cells of stride 32; here to at least one
    cells = tuple(max(1, (side + 3) // 32) for side in padding.shape[1:])
    padding = resize_padding(resize_padding(padding, cells), size)
    positions = padded_positions(padding, patches.shape[2]).to(patches.dtype)
    return patches + positions, padding.flatten(1)


class TokenMerging(nn.Module):
    """Patch merging as in Swin, for the map and the detection tokens.

    A new patch is made of four neighbouring ones; a detection token, to go through the same layers,
    of itself four times.

    Args:
        embed_dims: number of input channels of patches and tokens.
        out_channels: number of output channels.
    """

    def __init__(self, embed_dims: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * embed_dims)
        self.reduction = nn.Linear(4 * embed_dims, out_channels, bias=False)

    def forward(self, x: RAMFeatures) -> RAMFeatures:
        """Halve the sides of the map, rounding up, and project both to `out_channels`."""
        tokens = self.reduction(self.norm(x.tokens.repeat(1, 1, 4)))
        patches = self.reduction(self.norm(gather_patches(x.map)))  # (B, H', W', C')
        return x._replace(map=patches.permute(0, 3, 1, 2), tokens=tokens)


@MODELS.register_module()
class SwinRAM(StagedNetwork):
    """Swin Transformer with detection tokens, guided by sketches.

    Args:
        arch: key of ACmix-Swin's `VARIANTS`, whose sizes are Swin's, or a dict with the same keys.
        num_queries: number of detection tokens N.
        sketch_dims: number of channels of the sketch features, of the position embedding of the
            tokens and of the last map.
        fusion_dims: number of hidden channels of the sketch fusions.
        dropout: dropout rate of the sketch fusions.
        window_size: side of the attention windows, in positions of a stage's map.
        **kwargs: arguments of :class:`StagedNetwork`, except `out_indices` and `out_norm`.
    """

    published = PublishedNames(
        # names of https://github.com/vcl-iisc/locformer-SGOL and of Swin classifiers
        rename=(
            *SWIN_RULES,
            (r"^layers\.3\.downsample\.", "last_merging."),
            (r"^attention\.(\d)\.", r"fusions.\1.fusion."),
            (r"^attention_proj\.(\d)\.0\.", r"fusions.\1.sketch_proj."),
            (r"^attention_proj\.(\d)\.1\.", r"fusions.\1.sketch_norm."),
        ),
        computed=SWIN_COMPUTED,
        # parts that a Swin classifier does not have
        fresh=(r"^fusions\.", r"^det_(token|pos_embed)", r"\.det_pos_linear\.", r"^last_merging\."),
        unused=(
            r"^(normalize_(image|sketch)|projection|op[13]|bn_op|resConfUnit[12]|norm[123])\.",
            r"^fusions\.\d\.fusion\.norm1\.",
            r"^(stages\.\d\.downsample|last_merging)\.(expansion|norm2)\.",
        ),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        num_queries: int = 100,
        sketch_dims: int = 256,
        fusion_dims: int = 1024,
        dropout: float = 0.4,
        window_size: int = 7,
        **kwargs,
    ):
        sizes = read_arch(arch, VARIANTS)
        channels = [sizes["embed_dims"] * 2**i for i in range(4)]

        def make_block(stage: int, index: int, rate: float) -> nn.Module:
            return RAMBlock(
                channels[stage],
                sketch_dims,
                rate,
                cross_attention=stage == 3,
                num_heads=sizes["num_heads"][stage],
                window_size=window_size,
                shift=window_size // 2 if index % 2 else 0,
            )

        parts = Parts(
            channels,
            sizes["depths"],
            stem=lambda: PaddedPatchEmbed(3, channels[0], 4, LayerNorm2d),
            block=make_block,
            downsample=lambda stage: TokenMerging(*channels[stage - 1 : stage + 1]),
            # convolutions and norms keep PyTorch's default initialisation
            initialise=init_linear_layers,
            drop_path_rate=sizes["drop_path_rate"],
        )
        super().__init__(parts, out_indices=(1, 2, 3), out_norm="none", **kwargs)
        self.token_dims, self.position_dims = channels[3], sketch_dims
        self.det_token = nn.Parameter(torch.empty(1, num_queries, channels[0]))
        self.det_pos_embed = nn.Parameter(torch.empty(1, num_queries, sketch_dims))
        self.last_merging = TokenMerging(channels[3], sketch_dims)
        init_linear_layers(self.last_merging)
        nn.init.trunc_normal_(self.det_token, std=0.02)
        nn.init.trunc_normal_(self.det_pos_embed, std=0.02)
        self.fusions = nn.ModuleList(
            StageFusion(dims, sketch_dims, hidden_dims=fusion_dims, dropout=dropout)
            for dims in channels
        )

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Number of channels of each returned feature map."""
        return (*super().out_channels, self.position_dims)

    def forward(self, images: Tensor, padding: Tensor, sketch: Tensor) -> GuidedFeatures:
        """Compute the features of images, guided by sketches, at strides 8, 16, 32 and 64.

        Args:
            images: batch of images, ``(B, 3, H, W)``.
            padding: padding mask of the images, ``(B, H, W)``, True for padding.
            sketch: sketch features, ``(B, Q, sketch_dims, H', W')``.
        """
        tokens = self.det_token.expand(len(images), -1, -1)
        x = RAMFeatures(self.stem(images), tokens, self.det_pos_embed, padding)
        outs = self.run_stages(x, bind_sketch(self.fusions, sketch))
        maps = [out.map for out in (*outs[1:], self.last_merging(outs[3]))]
        return GuidedFeatures(tuple(maps), outs[3].tokens, self.det_pos_embed)

"""Attention from the tokens of one kind to those of another, here of images and sketches.

Tripathi et al., "Query-guided Attention in Vision Transformers for Localizing Objects Using a
Single Sketch", WACV 2024, https://arxiv.org/abs/2303.08784. The one idea: what a sketch shows is
told to the image while its features form, in front of each stage, rather than compared with them
afterwards. One block does it all: a sketch into the image, objects and sketch into each other, and
several sketches into one.

Beside the common alphabet, ``S`` is the number of sketches of one query and ``M`` that of tokens
that are attended to. Published at https://github.com/vcl-iisc/locformer-SGOL, whose entry names
these are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import to_maps, to_tokens


def sine_positions(
    rows: Tensor, columns: Tensor, channels: int, temperature: float = 10000.0
) -> Tensor:
    """Encode coordinates by sines and cosines of falling frequency.

    Half of the channels are of the rows, half of the columns; in each, channel ``2i`` is
    ``sin(x · temperature^(-4i / C))`` and channel ``2i + 1`` the cosine of that.

    Args:
        rows: of any shape ``(...)``.
        columns: ``(...)``.
        channels: C, a multiple of 4.
        temperature: the largest wavelength, in 2π coordinates.

    Returns:
        ``(..., C)``.
    """
    if channels % 4:
        raise ValueError(f"positions need channels in multiples of 4, got {channels=}")
    steps = torch.arange(channels // 4, device=rows.device, dtype=rows.dtype)
    frequencies = temperature ** (-4 / channels * steps)
    angles = torch.stack([rows, columns], -1)[..., None] * frequencies  # (..., 2, C/4)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)


def grid_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Encode the cells of a map, whose rows and columns count from 1.

    Args:
        height: H.
        width: W.
        channels: C, a multiple of 4.
        like: a tensor with the device and the dtype of the result.

    Returns:
        ``(H·W, C)``, in rows.
    """
    # in float32 at least: half precision cannot count to large sizes
    dtype = torch.promote_types(like.dtype, torch.float32)
    rows = torch.arange(1, height + 1, device=like.device, dtype=dtype)
    columns = torch.arange(1, width + 1, device=like.device, dtype=dtype)
    rows, columns = rows.repeat_interleave(width), columns.repeat(height)
    return sine_positions(rows, columns, channels).to(like.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn tokens ``(..., N, C)`` into ``(..., h, N, d)``, channels head-major."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


def set_attention(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout: float = 0.0
) -> Tensor:
    """Attend to each of several sets of tokens, and average what they answer.

    For each head, ``out = Σ_s softmax(query · key_sᵀ / √d) · value_s / S``.

    Args:
        query: ``(B, N, C)``.
        key: ``(B, S, M, C)``.
        value: ``(B, S, M, C)``.
        num_heads: h, a divisor of C.
        dropout: rate at which attention is dropped.

    Returns:
        ``(B, N, C)``.
    """
    num_sets = key.shape[1]
    query = query[:, None].expand(-1, num_sets, -1, -1)
    query, key, value = (split_heads(x, num_heads).flatten(0, 1) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # (B·S, h, N, d)
    return out.unflatten(0, (-1, num_sets)).mean(1).transpose(1, 2).flatten(2)


def attention_weights(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Compute the weights of :func:`set_attention`, averaged over the heads.

    Args:
        query: ``(B, N, C)``.
        key: ``(B, S, M, C)``.
        num_heads: h.

    Returns:
        ``(B, S, N, M)``; each row sums to 1.
    """
    query, key = (split_heads(x, num_heads) for x in (query[:, None], key))
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, S, h, N, M)
    return logits.softmax(-1).mean(2)


class CrossAttention(nn.Module):
    """Project query, key and value, attend by :func:`set_attention`, project the result.

    Entries and initialisation are those of `nn.MultiheadAttention`.

    Args:
        embed_dims: channels of all tokens.
        num_heads: h, a divisor of embed_dims.
        dropout: rate at which attention is dropped in training.
    """

    def __init__(self, embed_dims: int, num_heads: int, dropout: float):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims, got {num_heads=}, {embed_dims=}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims))
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _project(self, part: int, x: Tensor) -> Tensor:
        weight, bias = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return F.linear(x, weight[part], bias[part])

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map query ``(B, N, C)``, key and value ``(B, S, M, C)`` to ``(B, N, C)``."""
        projected = (self._project(i, x) for i, x in enumerate((query, key, value)))
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(set_attention(*projected, self.num_heads, dropout))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return what is attended to, ``(B, S, N, M)``."""
        return attention_weights(self._project(0, query), self._project(1, key), self.num_heads)


class CrossFusion(nn.Module):
    """Tell tokens of one kind what those of another answer to them::

        a = self_attn(x + x_positions, y + y_positions, y)
        out = norm3(x + linear2(relu(linear1(a))))

    As published, the attention reaches the tokens only through the two linear layers: nothing is
    added around it, and there is one norm. The authors' name for it is kept, though it attends to
    others.

    Args:
        embed_dims: C, of both kinds.
        hidden_dims: channels between the linear layers.
        num_heads: h, a divisor of embed_dims.
        dropout: rate in the attention, between the linear layers and behind them.
    """

    def __init__(
        self,
        embed_dims: int,
        *,
        hidden_dims: int = 1024,
        num_heads: int = 8,
        dropout: float = 0.4,
    ):
        super().__init__()
        self.self_attn = CrossAttention(embed_dims, num_heads, dropout)
        self.linear1 = nn.Linear(embed_dims, hidden_dims)
        self.linear2 = nn.Linear(hidden_dims, embed_dims)
        self.norm3 = nn.LayerNorm(embed_dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, x_positions: Tensor, y: Tensor, y_positions: Tensor) -> Tensor:
        """Map x, and y to which it attends, to tokens of the shape of x.

        Args:
            x: ``(B, N, C)``.
            x_positions: broadcasts to x.
            y: ``(B, M, C)``, or ``(B, S, M, C)`` for several sets whose answers are averaged.
            y_positions: broadcasts to y.
        """
        key = y + y_positions
        if y.ndim == 3:
            key, y = key[:, None], y[:, None]
        attended = self.self_attn(x + x_positions, key, y)
        hidden = self.dropout(F.relu(self.linear1(attended)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))


class StageFusion(nn.Module):
    """Tell the map in front of a stage what the sketches show: :class:`CrossFusion` of maps.

    Each position of the image attends to all positions of each sketch, projected to the stage's
    width; the answers of several sketches are averaged.

    Args:
        embed_dims: C, a multiple of 4.
        sketch_dims: channels of the sketches.
        num_groups: of the normalisation of the projected sketches, a divisor of embed_dims.
        **kwargs: settings of :class:`CrossFusion`.
    """

    def __init__(self, embed_dims: int, sketch_dims: int = 256, *, num_groups: int = 32, **kwargs):
        super().__init__()
        if embed_dims % 4 or embed_dims % num_groups:
            raise ValueError(
                "embed_dims must be a multiple of 4 and of num_groups, "
                f"got {embed_dims=}, {num_groups=}"
            )
        self.sketch_proj = nn.Conv2d(sketch_dims, embed_dims, 1)
        self.sketch_norm = nn.GroupNorm(num_groups, embed_dims)
        self.fusion = CrossFusion(embed_dims, **kwargs)

    def project(self, sketch: Tensor) -> Tensor:
        """Map sketches ``(B, S, sketch_dims, H', W')`` to the stage's width."""
        projected = self.sketch_norm(self.sketch_proj(sketch.flatten(0, 1)))
        return projected.unflatten(0, sketch.shape[:2])

    def forward(self, x: Tensor, sketch: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to the same shape, given ``(B, S, sketch_dims, H', W')``."""
        fused = self.fusion(*self._tokens_and_positions(x, self.project(sketch)))
        return to_maps(fused, x.shape[2:])

    def attention(self, x: Tensor, sketch: Tensor) -> Tensor:
        """Return what each position attends to in each sketch, averaged over the heads.

        Args:
            x: ``(B, C, H, W)``, as for :meth:`forward`.
            sketch: ``(B, S, sketch_dims, H', W')``.

        Returns:
            ``(B, S, H, W, H', W')``; for each position of the image, the sum over a sketch is 1.
        """
        tokens, places, others, their_places = self._tokens_and_positions(x, self.project(sketch))
        weights = self.fusion.self_attn.weights(tokens + places, others + their_places)
        return weights.unflatten(3, sketch.shape[3:]).unflatten(2, x.shape[2:])

    def _tokens_and_positions(self, *maps: Tensor) -> list[Tensor]:
        both = ((to_tokens(x), grid_positions(*x.shape[-2:], x.shape[-3], x)) for x in maps)
        return [tensor for pair in both for tensor in pair]


class SketchMixer(nn.Module):
    """Make one sketch of several: their mean attends to how each one differs from it.

    Known only from the byte code that the authors left, as `multi_sketch_fusion`.

    Args:
        embed_dims: C, a multiple of 4.
        **kwargs: settings of :class:`CrossFusion`.
    """

    def __init__(self, embed_dims: int = 256, **kwargs):
        super().__init__()
        self.fusion = CrossFusion(embed_dims, **kwargs)

    def forward(self, sketches: Tensor) -> Tensor:
        """Map ``(B, S, C, H, W)`` to ``(B, C, H, W)``."""
        num_sketches, channels, height, width = sketches.shape[1:]
        mean = sketches.mean(1)
        others = to_tokens(sketches - mean[:, None]).flatten(1, 2)  # (B, S·H·W, C)
        places = grid_positions(height, width, channels, sketches)
        mixed = self.fusion(to_tokens(mean), places, others, places.repeat(num_sketches, 1))
        return to_maps(mixed, (height, width))

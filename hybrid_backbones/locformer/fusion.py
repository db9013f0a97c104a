"""Cross-attention between image features and sketch features.

The idea of LocFormer (see `detector.py`): sketch features are fused into the image features before
each stage of the backbone, rather than compared with the final ones. The same block fuses a sketch
into an image, objects and a sketch into each other, and several sketches into one.

In addition to the shape letters of :mod:`hybrid_backbones.ops`, ``Q`` is the number of sketches of
one query. Entry names are those of https://github.com/vcl-iisc/locformer-SGOL.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import join_heads, require_divides, split_heads, to_maps, to_tokens


def sine_positions(
    rows: Tensor, columns: Tensor, channels: int, temperature: float = 10000.0
) -> Tensor:
    """Encode coordinates by sines and cosines of decreasing frequency.

    The first half of the channels encodes rows, the second half columns; in each, channel ``2i`` is
    ``sin(x · temperature^(-4i / C))`` and channel ``2i + 1`` the cosine of the same angle.

    Args:
        rows: row coordinates, of any shape ``(...)``.
        columns: column coordinates, ``(...)``.
        channels: number of encoding channels C; must be a multiple of 4.
        temperature: upper bound of the wavelengths, divided by 2π.

    Returns:
        position encoding, ``(..., C)``.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels=}")
    steps = torch.arange(channels // 4, device=rows.device, dtype=rows.dtype)
    frequencies = temperature ** (-4 / channels * steps)
    angles = torch.stack([rows, columns], -1)[..., None] * frequencies  # (..., 2, C/4)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)


def grid_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Encode the positions of a map by :func:`sine_positions`, counting rows and columns from 1.

    Args:
        height: height of the map H.
        width: width of the map W.
        channels: number of encoding channels C; must be a multiple of 4.
        like: tensor that gives device and dtype of the result.

    Returns:
        position encoding in row-major order, ``(H·W, C)``.
    """
    # half precision cannot represent large coordinates exactly
    dtype = torch.promote_types(like.dtype, torch.float32)
    rows = torch.arange(1, height + 1, device=like.device, dtype=dtype)
    columns = torch.arange(1, width + 1, device=like.device, dtype=dtype)
    rows, columns = rows[:, None].expand(-1, width).flatten(), columns.repeat(height)
    return sine_positions(rows, columns, channels).to(like.dtype)


def set_attention(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, dropout: float = 0.0
) -> Tensor:
    """Attend to each of several token sets separately and average the results.

    For each head, ``out = Σ_q softmax(query · key_qᵀ / √d) · value_q / Q``.

    Args:
        query: query tokens, ``(B, N, C)``.
        key: keys of Q token sets, ``(B, Q, M, C)``.
        value: values of the same sets, ``(B, Q, M, C)``.
        num_heads: number of attention heads; must divide C.
        dropout: dropout rate of the attention weights.

    Returns:
        attended tokens, ``(B, N, C)``.
    """
    num_sets = key.shape[1]
    query = query[:, None].expand(-1, num_sets, -1, -1)
    query, key, value = (split_heads(x, num_heads).flatten(0, 1) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # (B·Q, h, N, d)
    return join_heads(out.unflatten(0, (-1, num_sets)).mean(1))


def attention_weights(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Compute the attention weights of :func:`set_attention`, averaged over the heads.

    Args:
        query: query tokens, ``(B, N, C)``.
        key: keys of Q token sets, ``(B, Q, M, C)``.
        num_heads: number of attention heads; must divide C.

    Returns:
        weights, ``(B, Q, N, M)``, which sum to 1 over M.
    """
    query, key = (split_heads(x, num_heads) for x in (query[:, None], key))
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, Q, h, N, M)
    return logits.softmax(-1).mean(2)


def map_positions(x: Tensor) -> Tensor:
    """Encode the positions of a map ``(..., C, H, W)`` by :func:`grid_positions`."""
    channels, height, width = x.shape[-3:]
    return grid_positions(height, width, channels, x)


class CrossAttention(nn.Module):
    """Multi-head cross-attention: :func:`set_attention` between input and output projections.

    Entry names and initialisation are those of `nn.MultiheadAttention`.

    Args:
        embed_dims: number of channels of all tokens.
        num_heads: number of attention heads; must divide `embed_dims`.
        dropout: dropout rate of the attention weights in training.
    """

    def __init__(self, embed_dims: int, num_heads: int, dropout: float):
        super().__init__()
        require_divides(num_heads=num_heads, embed_dims=embed_dims)
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
        """Attend from query ``(B, N, C)`` to key and value ``(B, Q, M, C)``; ``(B, N, C)``."""
        query, key, value = (self._project(i, x) for i, x in enumerate((query, key, value)))
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(set_attention(query, key, value, self.num_heads, dropout))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention weights, averaged over the heads, ``(B, Q, N, M)``."""
        return attention_weights(self._project(0, query), self._project(1, key), self.num_heads)


class CrossFusion(nn.Module):
    """Transformer block that fuses tokens y into tokens x by cross-attention::

        a = self_attn(x + x_positions, y + y_positions, y)
        out = norm3(x + linear2(relu(linear1(a))))

    As published, the attention has neither a residual connection nor a norm of its own: only the
    output of the two linear layers is added to x. Its published entry name `self_attn` is kept,
    though it is a cross-attention.

    Args:
        embed_dims: number of channels C of x and y.
        hidden_dims: number of channels between the linear layers.
        num_heads: number of attention heads; must divide `embed_dims`.
        dropout: dropout rate of the attention weights and after each linear layer.
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
        """Fuse y into x; the result has the shape of x.

        Args:
            x: tokens that attend, ``(B, N, C)``.
            x_positions: position encoding of x; must broadcast to x.
            y: tokens that are attended to, ``(B, M, C)``, or ``(B, Q, M, C)`` for several sets
                whose attended values are averaged.
            y_positions: position encoding of y; must broadcast to y.
        """
        key = y + y_positions
        if y.ndim == 3:
            key, y = key[:, None], y[:, None]
        attended = self.self_attn(x + x_positions, key, y)
        hidden = self.dropout(F.relu(self.linear1(attended)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))


class StageFusion(nn.Module):
    """Fusion of sketch features into the input map of a stage, by :class:`CrossFusion`.

    Each position of the image attends to all positions of each sketch, whose features are projected
    to the width of the stage; the attended values of several sketches are averaged.

    Args:
        embed_dims: number of channels C of the map; must be a multiple of 4.
        sketch_dims: number of channels of the sketch features.
        num_groups: number of groups of the GroupNorm after the sketch projection; must divide
            `embed_dims`.
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
        """Project sketch features ``(B, Q, sketch_dims, H', W')`` to ``(B, Q, C, H', W')``."""
        projected = self.sketch_norm(self.sketch_proj(sketch.flatten(0, 1)))
        return projected.unflatten(0, sketch.shape[:2])

    def forward(self, x: Tensor, sketch: Tensor) -> Tensor:
        """Fuse sketch features ``(B, Q, sketch_dims, H', W')`` into a map ``(B, C, H, W)``."""
        fused = self.fusion(*self._tokens_and_positions(x, self.project(sketch)))
        return to_maps(fused, x.shape[2:])

    def attention(self, x: Tensor, sketch: Tensor) -> Tensor:
        """Compute the attention weights from image to sketch positions, averaged over the heads.

        Args:
            x: input map of the stage, ``(B, C, H, W)``.
            sketch: sketch features, ``(B, Q, sketch_dims, H', W')``.

        Returns:
            weights, ``(B, Q, H, W, H', W')``, which sum to 1 over each sketch.
        """
        x_tokens, x_pos, y, y_pos = self._tokens_and_positions(x, self.project(sketch))
        weights = self.fusion.self_attn.weights(x_tokens + x_pos, y + y_pos)
        return weights.unflatten(3, sketch.shape[3:]).unflatten(2, x.shape[2:])

    def _tokens_and_positions(self, *maps: Tensor) -> list[Tensor]:
        return [tensor for x in maps for tensor in (to_tokens(x), map_positions(x))]


class SketchMixer(nn.Module):
    """Fusion of several sketches into one: their mean attends to their differences from it.

    The authors published it only as compiled Python, under the name `multi_sketch_fusion`.

    Args:
        embed_dims: number of channels C of the sketch features; must be a multiple of 4.
        **kwargs: settings of :class:`CrossFusion`.
    """

    def __init__(self, embed_dims: int = 256, **kwargs):
        super().__init__()
        self.fusion = CrossFusion(embed_dims, **kwargs)

    def forward(self, sketches: Tensor) -> Tensor:
        """Fuse sketch features ``(B, Q, C, H, W)`` into ``(B, C, H, W)``."""
        mean = sketches.mean(1)
        differences = to_tokens(sketches - mean[:, None]).flatten(1, 2)  # (B, Q·H·W, C)
        pos = map_positions(mean)
        mixed = self.fusion(to_tokens(mean), pos, differences, pos.repeat(sketches.shape[1], 1))
        return to_maps(mixed, mean.shape[2:])

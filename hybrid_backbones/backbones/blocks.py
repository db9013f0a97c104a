"""Transformer block on feature maps, which most of the networks share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..layers import DropPath, Mlp


class TransformerBlock(nn.Module):
    """Attention and MLP, each with normalisation and a residual connection::

        x = x + pos_embed(x)
        x = x + gamma_1 ⊙ attn(norm1(x))
        x = x + gamma_2 ⊙ mlp(norm2(x))

    Args:
        embed_dims: number of channels C.
        norm: constructor of a normalisation layer from the number of channels.
        pos_embed: position encoding that maps ``(B, C, H, W)`` to the same shape; None omits it.
        attn: module that maps ``(B, C, H, W)`` to the same shape, such as attention.
        mlp: MLP that maps ``(B, C, H, W)`` to the same shape.
        layer_scale: initial value of the learned factors per channel, `gamma_1` and `gamma_2`;
            None omits them.
        drop_path_rate: stochastic depth rate of the attention and the MLP branch.
    """

    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def __init__(
        self,
        embed_dims: int,
        norm: Callable[[int], nn.Module],
        *,
        pos_embed: nn.Module | None = None,
        attn: nn.Module,
        mlp: Mlp,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.pos_embed = pos_embed
        self.norm1 = norm(embed_dims)
        self.attn = attn
        self.norm2 = norm(embed_dims)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)
        for name in ("gamma_1", "gamma_2"):
            gamma = None if layer_scale is None else torch.full((embed_dims,), layer_scale)
            self.register_parameter(name, None if gamma is None else nn.Parameter(gamma))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        x = x + self._branch(self.attn(self.norm1(x)), self.gamma_1)
        return x + self._branch(self.mlp(x, self.norm2), self.gamma_2)

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        return self.drop_path(x if gamma is None else gamma[:, None, None] * x)

"""Efficient additive attention: one global query meets all keys, at a cost linear in the tokens.

Shaker et al., "SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile
Vision Applications", ICCV 2023, https://arxiv.org/abs/2303.15446. The one idea: sum the queries to
a single one, and multiply each key by it, channel by channel; there are no values, and no two
tokens are compared.
"""

import torch
from torch import Tensor, nn

from ..layers import to_maps, to_tokens
from .size_cache import is_traced

# as published: below this length a vector is not stretched to length one
EPS = 1e-12


def unit_vectors(x: Tensor, dim: int) -> Tensor:
    """Compute ``x / ‖x‖``, at least in float32.

    Args:
        x: of any shape.
        dim: along which the length is taken.

    Returns:
        the shape of x, of length one along `dim`; shorter where x is below `EPS`.
    """
    # a trace that is saved takes no functions of Python
    normalize = _normalize if is_traced(x.device) else _UnitVectors.apply
    unit, _ = normalize(x, dim)
    return unit


def _normalize(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    # a length in half precision may overflow, and `EPS` is zero there
    dtype = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype).clamp_min(EPS)
    return x / length, length


class _UnitVectors(torch.autograd.Function):
    """Divide by the length, and return both.

    The gradient needs these two and not x::

        dx = (du - u (u · du - ‖x‖ d‖x‖)) / ‖x‖
    """

    generate_vmap_rule = True
    forward = staticmethod(_normalize)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.dim = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx, grad: Tensor, grad_length: Tensor):
        unit, length = ctx.saved_tensors
        along = (unit * grad).sum(ctx.dim, keepdim=True) - length * grad_length
        along = along * (length > EPS)  # below, the length is a constant
        return torch.addcmul(grad, unit, along, value=-1).div_(length).to(ctx.dtype), None


def efficient_additive_attention(
    query: Tensor, key: Tensor, weight: Tensor, *, first_release: bool = False
) -> Tensor:
    """Multiply each key by the global query, a weighted sum of all queries::

        a = query · weight        (one number a token)
        g = Σ_n a_n query_n / ‖a‖
        out_n = g ⊙ key_n

    The length of `weight` cancels. In the first release every token has the same weight::

        g = Σ_n query_n

    The length of g grows with the number of tokens, like its root, or in proportion to it in the
    first release.

    Args:
        query: ``(B, N, C)``, of length one along C.
        key: ``(B, N, C)``, of length one along C.
        weight: ``(C, 1)``; in the first release it has no effect, and a gradient of zero.
        first_release: compute the form of the first release.

    Returns:
        ``(B, N, C)``.
    """
    # sums over tokens are taken in float32, which products with `scores` are in
    if first_release:
        dtype = torch.promote_types(query.dtype, torch.float32)
        global_query = query.sum(1, keepdim=True, dtype=dtype) + 0 * weight.T  # (B, 1, C)
    else:
        # published with a factor d**-0.5, which cancels here too
        scores = unit_vectors(query @ weight, dim=1)  # (B, N, 1)
        global_query = (scores * query).sum(1, keepdim=True)  # (B, 1, C)
    return (global_query * key).to(key.dtype)


class EfficientAdditiveAttention(nn.Module):
    """Relate the positions of a map by efficient additive attention::

        q, k = to_query(x) / ‖to_query(x)‖, to_key(x) / ‖to_key(x)‖
        out = final(Proj(efficient_additive_attention(q, k, w_g)) + q)

    Published at https://github.com/Amshaker/SwiftFormer, whose entry names these are.

    .. warning:: Both forms have entries of the same names and shapes, so that weights of the one
       load into the other without an error, and give wrong results. Files that the authors linked
       from 2023-03-26 to 2023-07-26 need ``first_release=True``, the form that Hugging Face's
       transformers computes; files linked since then need the current form, as timm's do.

    Args:
        embed_dims: channels of x.
        token_dims: channels of the output; as many as of x where it is None.
        num_heads: widens queries and keys to ``num_heads * token_dims`` channels, and no more: as
            published, they are not split into heads.
        first_release: compute the form of the first release.

    Raises:
        ValueError: for numbers below one.
    """

    def __init__(
        self,
        embed_dims: int,
        token_dims: int | None = None,
        num_heads: int = 1,
        *,
        first_release: bool = False,
    ):
        super().__init__()
        token_dims = embed_dims if token_dims is None else token_dims
        if min(embed_dims, token_dims, num_heads) < 1:
            raise ValueError(
                "embed_dims, token_dims and num_heads must be at least 1, "
                f"got {embed_dims=}, {token_dims=}, {num_heads=}"
            )
        self.first_release = first_release
        width = num_heads * token_dims
        self.w_g = nn.Parameter(torch.randn(width, 1))
        self.to_query = nn.Linear(embed_dims, width)
        self.to_key = nn.Linear(embed_dims, width)
        self.Proj = nn.Linear(width, width)
        self.final = nn.Linear(width, token_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, embed_dims, H, W)`` to ``(B, token_dims, H, W)``."""
        tokens = to_tokens(x)
        query, key = self.to_query(tokens), self.to_key(tokens)
        query = unit_vectors(query, dim=2).to(query.dtype)
        key = unit_vectors(key, dim=2).to(key.dtype)
        context = efficient_additive_attention(
            query, key, self.w_g, first_release=self.first_release
        )
        return to_maps(self.final(self.Proj(context) + query), x.shape[2:])

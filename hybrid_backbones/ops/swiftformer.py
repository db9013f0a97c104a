"""Efficient additive attention: one global query for all keys, at linear cost in the tokens.

Shaker et al., "SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile
Vision Applications", ICCV 2023, https://arxiv.org/abs/2303.15446. The one idea: reduce the
queries to a single global query and multiply it with each key, channel by channel; there are no
values and no pairwise interactions between tokens.
"""

import torch
from torch import Tensor, nn

from ..layers import to_maps, to_tokens
from .size_cache import is_traced

# as published: shorter vectors are divided by this instead of their norm
EPS = 1e-12


def unit_vectors(x: Tensor, dim: int) -> Tensor:
    """Normalise vectors to unit length, ``x / max(‖x‖, EPS)``, in at least float32.

    Args:
        x: tensor of any shape.
        dim: dimension of the vectors.

    Returns:
        Unit vectors of the shape of x.
    """
    # `torch.jit.trace` cannot serialise Python autograd functions
    normalize = _normalize if is_traced(x.device) else _UnitVectors.apply
    unit, _ = normalize(x, dim)
    return unit


def _normalize(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    # in half precision the norm may overflow and `EPS` is zero
    dtype = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype).clamp_min(EPS)
    return x / length, length


class _UnitVectors(torch.autograd.Function):
    """Normalisation to unit length that returns the unit vectors and their norms.

    The backward pass needs these two and not x::

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
        along = along * (length > EPS)  # a clamped norm is constant
        return torch.addcmul(grad, unit, along, value=-1).div_(length).to(ctx.dtype), None


def efficient_additive_attention(
    query: Tensor, key: Tensor, weight: Tensor, *, first_release: bool = False
) -> Tensor:
    """Multiply each key by the global query, a weighted sum of all queries::

        a = query · weight        (one score per token)
        g = Σ_n a_n query_n / ‖a‖
        out_n = g ⊙ key_n

    The norm of `weight` cancels. In the first release all tokens have the same weight::

        g = Σ_n query_n

    The norm of g grows with the square root of the number of tokens, in the first release linearly.

    Args:
        query: queries ``(B, N, C)``, unit vectors along C.
        key: keys ``(B, N, C)``, unit vectors along C.
        weight: scoring vector ``(C, 1)``; without effect and with zero gradient in the first
            release.
        first_release: whether to compute the form of the first release.

    Returns:
        Keys multiplied by the global query, ``(B, N, C)``.
    """
    # tokens are summed in at least float32, the dtype of `scores`
    if first_release:
        dtype = torch.promote_types(query.dtype, torch.float32)
        global_query = query.sum(1, keepdim=True, dtype=dtype) + 0 * weight.T  # (B, 1, C)
    else:
        # the published factor d**-0.5 cancels in the normalisation
        scores = unit_vectors(query @ weight, dim=1)  # (B, N, 1)
        global_query = (scores * query).sum(1, keepdim=True)  # (B, 1, C)
    return (global_query * key).to(key.dtype)


class EfficientAdditiveAttention(nn.Module):
    """Efficient additive attention over the positions of a feature map::

        q, k = to_query(x) / ‖to_query(x)‖, to_key(x) / ‖to_key(x)‖
        out = final(Proj(efficient_additive_attention(q, k, w_g)) + q)

    State dict names are those of https://github.com/Amshaker/SwiftFormer.

    .. warning:: Both forms have the same state dict names and shapes, so weights of one load into
       the other without an error and give wrong results. Checkpoints that the authors linked from
       2023-03-26 to 2023-07-26 need ``first_release=True``, the form that Hugging Face's
       transformers computes; later checkpoints and timm's need the current form.

    Args:
        embed_dims: number of input channels.
        token_dims: number of output channels; None means `embed_dims`.
        num_heads: width factor of queries and keys, which have ``num_heads * token_dims`` channels;
            as published, they are not split into heads.
        first_release: whether to compute the form of the first release.

    Raises:
        ValueError: if `embed_dims`, `token_dims` or `num_heads` is below 1.
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

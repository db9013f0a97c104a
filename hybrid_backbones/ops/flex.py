"""Attention by PyTorch's FlexAttention, which compiles masked attention to one kernel on a GPU.

Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels", 2024,
https://arxiv.org/abs/2412.05496. An operator says which keys a query sees, token by token, and
which blocks of tokens see any of each other, so that all others are skipped.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .triton_support import DTYPES

# tokens in a block of the mask, PyTorch's default
BLOCK = 128
MIN_VERSION = "2.7"
# channels of a head that PyTorch's kernel needs
MIN_HEAD_DIM = 16
# what Dynamo compiles of one function, eight times by default: each operator, dtype, head dimension
# and batch, with gradients and without, for its first size and then for all sizes
MAX_COMPILATIONS = 128


def unsupported_reason(*tensors: Tensor, head_dim: int) -> str | None:
    """Return why FlexAttention cannot take these tensors, or None if it can."""
    device, dtype = tensors[0].device, tensors[0].dtype
    if torch.__version__ < MIN_VERSION:
        return f"it needs PyTorch {MIN_VERSION} or later, got {torch.__version__}"
    if device.type not in ("cuda", "cpu"):
        return f"it needs a CUDA device or a CPU, got {device}"
    has_gradients = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if device.type == "cpu" and has_gradients:
        return "it has no gradients on a CPU"
    if device.type == "cuda" and dtype not in DTYPES:
        return f"the dtype must be one of float32, float16 and bfloat16, got {dtype}"
    if device.type == "cuda" and head_dim < MIN_HEAD_DIM:
        return f"each head must have at least {MIN_HEAD_DIM} channels, got {head_dim}"
    return None


def touched_by_blocks(parts: Tensor, num_parts: int) -> Tensor:
    """Return which parts of a map the blocks of its tokens touch.

    Args:
        parts: index of the part, such as a row or a region, of each token, ``(N,)``.
        num_parts: number of parts.

    Returns:
        ``(ceil(N / BLOCK), num_parts)``, 1 where a block has a token of a part, else 0.
    """
    blocks = torch.arange(len(parts), device=parts.device) // BLOCK
    touched = parts.new_zeros(-(-len(parts) // BLOCK), num_parts, dtype=torch.float32)
    touched[blocks, parts] = 1
    return touched


def mask_blocks(blocks: Tensor, seen: Callable[..., Tensor], lengths: tuple[int, int]):
    """Return the mask of FlexAttention for all heads.

    Args:
        blocks: which blocks of queries may see which blocks of keys, boolean
            ``(B, N'/BLOCK, N/BLOCK)``; B is 1 if all images have one mask.
        seen: function of the indices of batch, head, query and key to whether the query sees the
            key; False for every pair of blocks that do not see each other.
        lengths: number N' of queries and N of keys.
    """
    from torch.nn.attention.flex_attention import BlockMask

    blocks = blocks[:, None]  # of all heads
    # those that are seen first, each in its order
    indices = blocks.int().argsort(stable=True, dim=-1, descending=True)
    return BlockMask.from_kv_blocks(
        blocks.sum(-1, dtype=torch.int32),
        indices.int(),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=lengths,
    )


def flex_attend(query: Tensor, key: Tensor, value: Tensor, **settings) -> Tensor:
    """Attend from query ``(B, h, N', d)`` to key and value ``(B, h, N, d)``; see `flex_attention`.

    On a CPU all N'·N logits are computed, for tests on small maps.
    """
    from torch.nn.attention.flex_attention import flex_attention

    if not torch.is_grad_enabled():
        # views made here still say that they require gradients, which PyTorch refuses on a CPU
        query, key, value = query.detach(), key.detach(), value.detach()
    function: Any = _compile() if _runs_compiled(query) else flex_attention
    return function(query, key, value, **settings)


def _runs_compiled(query: Tensor) -> bool:
    return query.is_cuda and not torch.compiler.is_compiling()


@lru_cache
def _compile(backend: str | Callable[..., Any] = "inductor") -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # in full: what Dynamo does not compile would run with all logits in memory
    compiled: Any = torch.compile(flex_attention, backend=backend, fullgraph=True)

    def attend(*maps: Tensor, **settings) -> Any:
        with torch._dynamo.config.patch(recompile_limit=MAX_COMPILATIONS):
            return compiled(*maps, **settings)

    return attend

"""Public function of pixel-shift attention: argument checks and choice of backend."""

import torch
from torch import Tensor

from ...layers import require_divides
from ..choice import choose_backend
from ..validation import (
    require_backend,
    require_kernel,
    require_same_device,
    require_same_dtype,
    require_same_shape,
    require_strided,
)
from .reference import pixel_shift_attention_reference
from .shifted import pixel_shift_attention_shifted
from .triton import pixel_shift_attention_triton, unsupported_reason

# all except 'triton' run on any device and in any floating-point dtype
BACKENDS = {
    "triton": pixel_shift_attention_triton,
    "shifted": pixel_shift_attention_shifted,
    "reference": pixel_shift_attention_reference,
}


def pixel_shift_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int = 3,
    *,
    num_heads: int = 1,
    stride: int = 1,
    dilation: int = 1,
    backend: str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Sum the K×K shifted copies of `value`, each weighted by the query times the shifted key.

    In each head, with offsets ``δ = dilation·(i, j)``, ``|i|, |j| ≤ K//2`` and the stride ``s``::

        out(p) = Σ_δ a_δ(p) value(s·p + δ),   a_δ(p) = query(p) · key(s·p + δ) / √d

    The weights are not normalised: there is no softmax. Pixels shifted in from outside the map are
    zero. The weights depend on the key at an offset, not on the offset itself.

    Args:
        query: queries, ``(B, C, H', W')`` with ``H' = ceil(H / stride)`` and
            ``W' = ceil(W / stride)``, channels head-major.
        key: keys, ``(B, C, H, W)``.
        value: values, ``(B, C, H, W)``.
        kernel_size: side K of the grid of offsets, odd.
        num_heads: number of heads h, must divide C; each head has ``d = C / h`` channels.
        stride: distance between adjacent queries, in pixels of `key`.
        dilation: distance between adjacent offsets, in pixels of `key`.
        backend: ``'triton'`` (on a CUDA device), ``'shifted'`` or ``'reference'``; None selects
            the fastest that can run.
        dtype: dtype of the output; None means that of `query`. The output is cubic in the inputs
            and may overflow in half precision where they do not.

    Returns:
        Weighted sums of values, ``(B, C, H', W')``.

    Raises:
        ValueError: if a shape, dtype or setting is invalid, or the named backend cannot run.
    """
    validate_settings(kernel_size, stride, dilation, backend)
    _validate_tensors(query, key, value, num_heads, stride)
    backend = choose_backend(
        "pixel_shift_attention",
        backend,
        "shifted",
        (query, key, value),
        dict(triton=lambda: unsupported_reason(query, kernel_size)),
        exported="shifted",
    )
    dtype = query.dtype if dtype is None else dtype
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    return BACKENDS[backend](query, key, value, kernel_size, num_heads, stride, dilation, dtype)


def validate_settings(
    kernel_size: int, stride: int, dilation: int, backend: str | None = None
) -> None:
    """Validate the settings of :func:`pixel_shift_attention`; layers call this at construction.

    Raises:
        ValueError: if a setting is invalid.
    """
    require_kernel(kernel_size, stride, dilation)
    require_backend(backend, BACKENDS)


def _validate_tensors(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, stride: int
) -> None:
    require_same_shape("(B, C, H, W)", key=key, value=value)
    require_strided(query, key, stride)
    require_divides(num_heads=num_heads, channels=key.shape[1])
    require_same_dtype(query=query, key=key, value=value)
    require_same_device(query=query, key=key, value=value)

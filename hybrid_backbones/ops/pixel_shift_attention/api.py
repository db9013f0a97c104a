"""Public function of pixel-shift attention: argument checks and choice of backend."""

import torch
from torch import Tensor

from ..triton_support import is_fast
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
    if backend is None:
        kernels = is_fast(query.device) and unsupported_reason(query, kernel_size) is None
        backend = "triton" if kernels else "shifted"
    elif backend == "triton":
        obstacle = unsupported_reason(query, kernel_size)
        if obstacle is not None:
            raise ValueError(f"{backend=} cannot run: {obstacle}")
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
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size=}")
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride and dilation must be at least 1, got {stride=}, {dilation=}")
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {backend!r}")


def _validate_tensors(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, stride: int
) -> None:
    if key.ndim != 4 or key.shape != value.shape:
        raise ValueError(
            "key and value must have the same shape (B, C, H, W), "
            f"got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    batch, channels, height, width = key.shape
    expected = (batch, channels, -(-height // stride), -(-width // stride))
    if tuple(query.shape) != expected:
        raise ValueError(
            f"query must have shape {expected} for key of shape {tuple(key.shape)} and {stride=}, "
            f"got {tuple(query.shape)}"
        )
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"num_heads must divide the channels, got {num_heads=}, {channels=}")
    if min(key.shape[1:]) < 1:
        raise ValueError(f"only the batch may be empty, got key of shape {tuple(key.shape)}")
    if not query.is_floating_point() or not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            "query, key and value must have the same floating-point dtype, "
            f"got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if not query.device == key.device == value.device:
        raise ValueError(
            "query, key and value must be on the same device, "
            f"got {query.device}, {key.device} and {value.device}"
        )

"""Public function of local attention: argument checks and choice of backend."""

from torch import Tensor

from ..triton_support import is_fast
from .reference import local_attention_reference
from .tiled import local_attention_tiled
from .triton import local_attention_triton, unsupported_reason

# all except 'triton' run on any device and in any floating-point dtype
BACKENDS = {
    "triton": local_attention_triton,
    "tiled": local_attention_tiled,
    "reference": local_attention_reference,
}


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute attention of each query over its K×K neighbourhood of keys.

    With ``N(y, x)`` the pixels ``(stride·y + dilation·i, stride·x + dilation·j)`` for ``|i|, |j| ≤
    K//2``::

        out(y, x) = Σ_n softmax_n(query(y, x) · key(n) / √d) value(n),   n ∈ N(y, x)

    Borders are padded by reflection as in ACmix, repeatedly if the map is smaller than the
    neighbourhood; an axis of length one repeats its pixel. (Neighbourhood attention instead keeps
    the K×K window inside the map.) ``backend='reference'`` unfolds exactly this definition.

    The backward pass of ``'triton'`` uses the output: do not modify it in place before then.

    Args:
        query: queries, ``(B, h, d, H', W')``, ``H' = ceil(H / stride)``, ``W' = ceil(W / stride)``.
        key: keys, ``(B, h, d, H, W)``.
        value: values, ``(B, h, d, H, W)``.
        kernel_size: side K of the neighbourhood, odd.
        stride: distance between the centres of adjacent queries, in pixels of `key`.
        dilation: distance between adjacent keys of one query, in pixels of `key`.
        backend: ``'triton'`` (on a CUDA device), ``'tiled'`` or ``'reference'``; None selects
            the fastest that can run.

    Returns:
        Weighted sums of values, ``(B, h, d, H', W')``, in the dtype of `query`.

    Raises:
        ValueError: if a shape, dtype or setting is invalid, or the named backend cannot run.
    """
    validate_settings(kernel_size, stride, dilation, backend)
    _validate_tensors(query, key, value, stride)
    if backend is None:
        kernels = (
            is_fast(query.device) and unsupported_reason(query, key, value, kernel_size) is None
        )
        backend = "triton" if kernels else "tiled"
    elif backend == "triton":
        obstacle = unsupported_reason(query, key, value, kernel_size)
        if obstacle is not None:
            raise ValueError(f"{backend=} cannot run: {obstacle}")
    return BACKENDS[backend](query, key, value, kernel_size, stride, dilation)


def validate_settings(kernel_size: int, stride: int, dilation: int, backend: str | None) -> None:
    """Validate the settings of :func:`local_attention`; layers call this at construction.

    Raises:
        ValueError: if a setting is invalid.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size=}")
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride and dilation must be at least 1, got {stride=}, {dilation=}")
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {backend!r}")


def _validate_tensors(query: Tensor, key: Tensor, value: Tensor, stride: int) -> None:
    if key.ndim != 5 or key.shape != value.shape:
        raise ValueError(
            "key and value must have the same shape (B, h, d, H, W), "
            f"got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    *leading, height, width = key.shape
    expected = (*leading, -(-height // stride), -(-width // stride))
    if tuple(query.shape) != expected:
        raise ValueError(
            f"query must have shape {expected} for key of shape {tuple(key.shape)} and {stride=}, "
            f"got {tuple(query.shape)}"
        )
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

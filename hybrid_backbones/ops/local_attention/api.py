"""The public function of local attention: what it means, what it accepts, who computes it."""

from torch import Tensor

from ..triton_support import is_fast
from .reference import local_attention_reference
from .tiled import local_attention_tiled
from .triton import local_attention_triton, unsupported_reason

# all but 'triton' run on every device and floating dtype
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
    """Attend from each query to the K×K keys around it.

    With ``N(y, x)`` the pixels ``(stride·y + dilation·i, stride·x + dilation·j)`` for ``|i|, |j| ≤
    K//2``::

        out(y, x) = Σ_n softmax_n(query(y, x) · key(n) / √d) value(n),   n ∈ N(y, x)

    Pixels outside the map are those inside, mirrored at the border as ACmix has it, as often as a
    small map needs; a side of one pixel repeats it. (Neighbourhood attention instead keeps the K×K
    window inside the map.) ``backend='reference'`` is this definition, unfolded.

    The backward pass of ``'triton'`` reads the result: do not change it in place before.

    Args:
        query: ``(B, h, d, H', W')`` with ``H' = ceil(H / stride)``, ``W' = ceil(W / stride)``.
        key: ``(B, h, d, H, W)``.
        value: ``(B, h, d, H, W)``.
        kernel_size: K, odd.
        stride: distance of the centres of neighbouring queries, in pixels of key.
        dilation: distance of neighbouring keys of one query, in pixels of key.
        backend: ``'triton'`` (on a CUDA device), ``'tiled'`` or ``'reference'``; None takes the
            fastest that can run.

    Returns:
        ``(B, h, d, H', W')``, of the dtype of query.

    Raises:
        ValueError: for shapes, dtypes or settings other than these, and for a named backend that
            cannot run.
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
    """Check the settings of :func:`local_attention`; modules do so at construction.

    Raises:
        ValueError: for settings that it does not take.
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
            "key and value must have one shape (B, h, d, H, W), "
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
            "query, key and value must have one floating dtype, "
            f"got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if not query.device == key.device == value.device:
        raise ValueError(
            "query, key and value must be on one device, "
            f"got {query.device}, {key.device} and {value.device}"
        )

"""The one public function: what it computes, which implementation runs."""

from torch import Tensor

from ..size_cache import is_traced
from .chunked import shifted_window_attention_chunked
from .fused import shifted_window_attention_fused


def shifted_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    window_size: int,
    shift: int = 0,
) -> Tensor:
    """Relate the positions of each window by their likeness and their offset.

    For each head and window, ``out = softmax(query · keyᵀ / √d + bias) · value``. The windows tile
    the plane from row and column `shift`; the map's borders cut them, and what lies outside takes
    no part (Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030).

    A CPU computes it in chunks of windows; elsewhere, and in what is compiled or exported, it is
    one call of PyTorch's attention.

    Args:
        query: ``(B, C, H, W)``, channels head-major; fastest where these are innermost in memory.
        key: ``(B, C, H, W)``.
        value: ``(B, C, H, W)``.
        bias: ``(h, N, N)`` for the ``N = window_size²`` positions of a window, in rows.
        window_size: side of the windows, in positions.
        shift: from 0 to below window_size, in positions.

    Returns:
        ``(B, C, H, W)``, of the dtype of query.

    Raises:
        ValueError: for shapes or settings other than these, and for maps of different dtypes.
    """
    _validate(query, key, value, bias, window_size, shift)
    chunked = query.device.type == "cpu" and not is_traced(query.device)
    attend = shifted_window_attention_chunked if chunked else shifted_window_attention_fused
    return attend(query, key, value, bias, window_size, shift)


def _validate(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window_size: int, shift: int
) -> None:
    if query.ndim != 4 or not query.shape == key.shape == value.shape:
        raise ValueError(
            "query, key and value must have one shape (B, C, H, W), "
            f"got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if not query.is_floating_point() or not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            "query, key and value must have one floating dtype, "
            f"got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if window_size < 1 or not 0 <= shift < window_size:
        raise ValueError(f"shift must be from 0 to below window_size, got {window_size=}, {shift=}")
    places = window_size**2
    if bias.ndim != 3 or bias.shape[1:] != (places, places):
        raise ValueError(
            f"bias must have shape (h, {places}, {places}) for {window_size=}, "
            f"got {tuple(bias.shape)}"
        )
    if len(bias) < 1 or query.shape[1] % len(bias):
        raise ValueError(f"{len(bias)} heads of the bias must divide {query.shape[1]} channels")

"""Public function of window attention: argument checks and choice of implementation."""

from torch import Tensor

from ...layers import are_known
from ..choice import is_exporting, log_choice
from ..device_choices import fits_caches
from ..size_cache import is_traced
from ..validation import require_same_dtype, require_same_shape
from .chunked import shifted_window_attention_chunked
from .exported import shifted_window_attention_exported
from .reference import shifted_window_attention_reference


def shifted_window_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window_size: int, shift: int = 0
) -> Tensor:
    """Compute attention with a relative position bias within shifted windows.

    For each head and window, ``out = softmax(query · keyᵀ / √d + bias) · value``. The window grid
    starts at row and column `shift`; windows are cropped at the borders of the map, so positions
    outside take no part (Liu et al., "Swin Transformer", ICCV 2021,
    https://arxiv.org/abs/2103.14030).

    On a CPU, windows are computed in chunks; on other devices, and in compiled code, by one call of
    PyTorch's scaled dot-product attention; exported graphs have a form of their own.

    Args:
        query: queries, ``(B, C, H, W)``, channels head-major; channels-last memory is fastest.
        key: keys, ``(B, C, H, W)``.
        value: values, ``(B, C, H, W)``.
        bias: bias of the logits, ``(h, T, T)``, for the ``T = window_size²`` positions of a window
            in row-major order; h must divide C.
        window_size: side of the windows, in positions.
        shift: first row and column of the window grid, from 0 to `window_size` - 1.

    Returns:
        Weighted sums of values, ``(B, C, H, W)``, in the dtype of `query`.

    Raises:
        ValueError: if a shape, dtype or setting is invalid.
    """
    _validate(query, key, value, bias, window_size, shift)
    if is_exporting() and are_known(shift):
        return shifted_window_attention_exported(query, key, value, bias, window_size, shift)
    if not fits_caches(query.device) or is_traced(query.device):
        log_choice("window_attention", "reference", "one call is fastest off the CPU and in traces")
        return shifted_window_attention_reference(query, key, value, bias, window_size, shift)
    log_choice("window_attention", "chunked", "windows stay in the caches of a CPU")
    return shifted_window_attention_chunked(query, key, value, bias, window_size, shift)


def _validate(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window_size: int, shift: int
) -> None:
    require_same_shape("(B, C, H, W)", query=query, key=key, value=value)
    require_same_dtype(query=query, key=key, value=value)
    if window_size < 1 or (are_known(shift) and not 0 <= shift < window_size):
        raise ValueError(
            f"shift must satisfy 0 <= shift < window_size, got {window_size=}, {shift=}"
        )
    num_positions = window_size**2
    if bias.ndim != 3 or bias.shape[1:] != (num_positions, num_positions):
        raise ValueError(
            f"bias must have shape (h, {num_positions}, {num_positions}) for "
            f"{window_size=}, got {tuple(bias.shape)}"
        )
    if len(bias) < 1 or query.shape[1] % len(bias):
        raise ValueError(f"the {len(bias)} heads of bias must divide {query.shape[1]} channels")

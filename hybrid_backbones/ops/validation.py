"""Validation of the arguments that several operators share; all raise ValueError."""

from collections.abc import Iterable

from torch import Tensor

from ..layers import ceil_div, require_odd


def require_kernel(kernel_size: int, stride: int, dilation: int) -> None:
    """Validate the settings of an operator on K×K neighbourhoods."""
    require_odd(kernel_size=kernel_size)
    if not all(isinstance(step, int) and step >= 1 for step in (stride, dilation)):
        raise ValueError(
            f"stride and dilation must be integers of at least 1, got {stride=}, {dilation=}"
        )


def require_same_padding(padding: int, kernel_size: int, dilation: int) -> None:
    """Validate that the padding of a convolution keeps the size of a map at stride 1."""
    expected = dilation * (kernel_size // 2)
    if padding != expected:
        raise ValueError(
            f"padding must be dilation * (kernel_size // 2) = {expected}, got {padding=}"
        )


def require_backend(backend: str | None, names: Iterable[str]) -> None:
    """Validate that `backend` is None or one of `names`."""
    if backend not in (None, *names):
        raise ValueError(f"backend must be None or one of {sorted(names)}, got {backend!r}")


def require_same_shape(letters: str, **tensors: Tensor) -> None:
    """Validate that named tensors have the same shape, written like ``"(B, C, H, W)"``."""
    first, *others = tensors.values()
    if first.ndim != letters.count(",") + 1 or any(x.shape != first.shape for x in others):
        shapes = _list(tuple(x.shape) for x in tensors.values())
        raise ValueError(f"{_list(tensors)} must have the same shape {letters}, got {shapes}")


def require_same_dtype(**tensors: Tensor) -> None:
    """Validate that named tensors have the same floating-point dtype."""
    first, *others = (x.dtype for x in tensors.values())
    if not first.is_floating_point or any(x != first for x in others):
        dtypes = _list((first, *others))
        raise ValueError(f"{_list(tensors)} must have the same floating-point dtype, got {dtypes}")


def require_same_device(**tensors: Tensor) -> None:
    """Validate that named tensors are on the same device."""
    first, *others = (x.device for x in tensors.values())
    if any(x != first for x in others):
        devices = _list((first, *others))
        raise ValueError(f"{_list(tensors)} must be on the same device, got {devices}")


def require_strided(query: Tensor, key: Tensor, stride: int) -> None:
    """Validate that `query` has the shape of `key` after a stride; only the batch may be empty."""
    *leading, height, width = key.shape
    expected = (*leading, ceil_div(height, stride), ceil_div(width, stride))
    if tuple(query.shape) != expected:
        raise ValueError(
            f"query must have shape {expected} for key of shape {tuple(key.shape)} and {stride=}, "
            f"got {tuple(query.shape)}"
        )
    if min(key.shape[1:]) < 1:
        raise ValueError(f"only the batch may be empty, got key of shape {tuple(key.shape)}")


def _list(words: Iterable) -> str:
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}"

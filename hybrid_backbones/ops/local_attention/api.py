"""Public function of local attention: argument checks and choice of backend."""

from torch import Tensor

from .. import flex
from ..choice import choose_backend
from ..validation import (
    require_backend,
    require_kernel,
    require_same_device,
    require_same_dtype,
    require_same_shape,
    require_strided,
)
from .fixed_tiles import local_attention_fixed_tiles
from .flex import local_attention_flex
from .reference import local_attention_reference
from .tiled import local_attention_tiled
from .triton import local_attention_triton, unsupported_reason

# all except 'triton' and 'flex' run on any device and in any floating-point dtype
BACKENDS = {
    "triton": local_attention_triton,
    "tiled": local_attention_tiled,
    "flex": local_attention_flex,
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

    With ``P(y, x)`` the pixels ``(stride·y + dilation·i, stride·x + dilation·j)`` for ``|i|, |j| ≤
    K//2``::

        out(y, x) = Σ_p softmax_p(query(y, x) · key(p) / √d) value(p),   p ∈ P(y, x)

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
        backend: ``'triton'`` (on a CUDA device), ``'tiled'``, ``'flex'`` (PyTorch's
            FlexAttention, on a CUDA device; on a CPU it has no gradients and computes all logits)
            or ``'reference'``; None selects the measured fastest that can run.

    Returns:
        Weighted sums of values, ``(B, h, d, H', W')``, in the dtype of `query`.

    Raises:
        ValueError: if a shape, dtype or setting is invalid, or the named backend cannot run.
    """
    validate_settings(kernel_size, stride, dilation, backend)
    _validate_tensors(query, key, value, stride)
    backend = choose_backend(
        "local_attention",
        backend,
        "tiled",
        (query, key, value),
        dict(
            triton=lambda: unsupported_reason(query, key, value, kernel_size),
            flex=lambda: flex.unsupported_reason(query, key, value, head_dim=query.shape[2]),
        ),
        exported="fixed tiles",
    )
    if backend == "fixed tiles":
        out = local_attention_fixed_tiles(
            query.flatten(1, 2),
            key.flatten(1, 2),
            value.flatten(1, 2),
            num_heads=query.shape[1],
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
        )
        return out.unflatten(1, query.shape[1:3])
    return BACKENDS[backend](query, key, value, kernel_size, stride, dilation)


def validate_settings(kernel_size: int, stride: int, dilation: int, backend: str | None) -> None:
    """Validate the settings of :func:`local_attention`; layers call this at construction.

    Raises:
        ValueError: if a setting is invalid.
    """
    require_kernel(kernel_size, stride, dilation)
    require_backend(backend, BACKENDS)


def _validate_tensors(query: Tensor, key: Tensor, value: Tensor, stride: int) -> None:
    require_same_shape("(B, h, d, H, W)", key=key, value=value)
    require_strided(query, key, stride)
    require_same_dtype(query=query, key=key, value=value)
    require_same_device(query=query, key=key, value=value)

"""Shared by the tests of pixel-shift attention and X-volution: settings, maps, the oracle."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from helpers import compiled, interpreted, needs_cuda

from hybrid_backbones.ops import pixel_shift_attention

# sums of some hundred terms of order one
TOLERANCES = {
    torch.float64: dict(rtol=0, atol=1e-10),
    torch.float32: dict(rtol=0, atol=1e-4),
}
EXACT = TOLERANCES[torch.float64]

SETTINGS = [
    pytest.param((7, 9), dict(), id="default"),
    pytest.param((7, 9), dict(num_heads=4), id="four heads"),
    pytest.param((7, 9), dict(num_heads=8), id="heads of one channel"),
    pytest.param((7, 9), dict(stride=2), id="stride 2, odd sizes"),
    pytest.param((6, 8), dict(stride=2, num_heads=2), id="stride 2, even sizes"),
    pytest.param((7, 8), dict(stride=3), id="stride 3"),
    pytest.param((7, 9), dict(dilation=2), id="dilation 2"),
    pytest.param((7, 6), dict(stride=2, dilation=3, num_heads=2), id="stride 2, dilation 3"),
    pytest.param((5, 7), dict(kernel_size=1), id="kernel 1"),
    pytest.param((5, 7), dict(kernel_size=5, stride=2), id="kernel 5"),
    pytest.param((1, 1), dict(), id="one pixel"),
    pytest.param((2, 3), dict(dilation=5, stride=2), id="map below the dilation"),
    pytest.param((1, 5), dict(num_heads=2), id="one row"),
]
each_setting = pytest.mark.parametrize(("size", "settings"), SETTINGS)

# of a dozen independent roundings, each of half a step
STEPS = 3
half_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@dataclass
class Implementation:
    """A backend on a device, in the most precise dtype that it computes in."""

    backend: str
    device: str
    dtype: torch.dtype = torch.float64

    @property
    def tolerance(self) -> dict[str, float]:
        return TOLERANCES[self.dtype]

    def make_maps(self, size, stride=1, **kwargs):
        return make_maps(size, stride, **{"dtype": self.dtype, "device": self.device, **kwargs})

    def __call__(self, query, key, value, **settings):
        return pixel_shift_attention(query, key, value, backend=self.backend, **settings)


implementations = pytest.mark.parametrize(
    "attention",
    [
        pytest.param(Implementation(backend, device, dtype), id=f"{backend}-{device}", marks=marks)
        for backend, device, dtype, marks in [
            ("reference", "cpu", torch.float64, []),
            ("shifted", "cpu", torch.float64, []),
            ("triton", "cpu", torch.float32, interpreted),
            ("reference", "cuda", torch.float64, needs_cuda),
            ("shifted", "cuda", torch.float64, needs_cuda),
            ("triton", "cuda", torch.float32, compiled),
        ]
    ],
)


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def make_maps(size, stride=1, *, batch=2, channels=8, **kwargs):
    """Make query, key and value."""
    small = [-(-side // stride) for side in size]
    return [make_map(batch, channels, *sides, **kwargs) for sides in (small, size, size)]


def unfold(x, kernel_size=3, stride=1, dilation=1, **_):
    """``(B, C, H, W)`` to ``(B, C, K², H', W')``, by PyTorch's own definition of a convolution."""
    sides = [-(-side // stride) for side in x.shape[2:]]
    padding = dilation * (kernel_size // 2)
    columns = F.unfold(x, kernel_size, dilation, padding, stride)
    return columns.view(*x.shape[:2], kernel_size**2, *sides)


def attention_by_unfolding(query, key, value, num_heads=1, **settings):
    """Return the result and the weights of all offsets, ``(B, h, K², H', W')``."""
    keys, values = unfold(key, **settings), unfold(value, **settings)
    keys, values, query = (x.unflatten(1, (num_heads, -1)) for x in (keys, values, query))
    weights = torch.einsum("bhdyx,bhdtyx->bhtyx", query, keys) / query.shape[2] ** 0.5
    return torch.einsum("bhtyx,bhdtyx->bhdyx", weights, values).flatten(1, 2), weights


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()

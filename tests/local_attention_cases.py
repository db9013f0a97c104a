"""Shared by the tests of local attention: inputs, the slow oracle, and who must obey the laws."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from helpers import compiled, interpreted, mirror, needs_cuda, output_and_gradients

from hybrid_backbones.ops import local_attention

# of logits, up to 2e6
MAGNITUDES = [2**0, 2**7, 2**13, 2**20]

# sums of some hundred terms of order one
TOLERANCES = {
    torch.float64: dict(rtol=0, atol=1e-11),
    torch.float32: dict(rtol=0, atol=1e-5),
}
EXACT = TOLERANCES[torch.float64]


@dataclass
class Implementation:
    """A backend on a device, in the most precise dtype that it computes in."""

    backend: str
    device: str
    dtype: torch.dtype = torch.float64

    @property
    def tolerance(self) -> dict[str, float]:
        return TOLERANCES[self.dtype]

    def make_inputs(self, size, stride=1, **kwargs):
        return make_inputs(size, stride, dtype=self.dtype, device=self.device, **kwargs)

    def __call__(self, query, key, value, kernel_size, **settings):
        return local_attention(query, key, value, kernel_size, backend=self.backend, **settings)


implementations = pytest.mark.parametrize(
    "attention",
    [
        pytest.param(Implementation(backend, device, dtype), id=f"{backend}-{device}", marks=marks)
        for backend, device, dtype, marks in [
            ("reference", "cpu", torch.float64, []),
            ("tiled", "cpu", torch.float64, []),
            ("triton", "cpu", torch.float32, interpreted),
            ("reference", "cuda", torch.float64, needs_cuda),
            ("tiled", "cuda", torch.float64, needs_cuda),
            ("triton", "cuda", torch.float32, compiled),
        ]
    ],
)


def make_inputs(size, stride=1, *, batch=2, num_heads=2, head_dim=3, **kwargs):
    """Make a query, key and value, by default in float64, that require gradients."""
    kwargs = {"dtype": torch.float64, "requires_grad": True, **kwargs}
    query_size = [-(-side // stride) for side in size]
    return [
        torch.randn(batch, num_heads, head_dim, *side, **kwargs)
        for side in (query_size, size, size)
    ]


def attend(kernel_size, **kwargs):
    """Fix the settings of `local_attention`, so that only its tensors are left."""
    return lambda query, key, value: local_attention(query, key, value, kernel_size, **kwargs)


def attend_by_loops(query, key, value, kernel_size, stride=1, dilation=1):
    """Compute the documented formula over rows, columns and neighbours, one after another."""
    *_, head_dim, height, width = key.shape
    offsets = [dilation * (i - kernel_size // 2) for i in range(kernel_size)]
    rows = []
    for y in range(query.shape[3]):
        row = []
        for x in range(query.shape[4]):
            logits, values = [], []
            for i, j in product(offsets, offsets):
                at = mirror(stride * y + i, height), mirror(stride * x + j, width)
                product_ = query[..., y, x] * key[..., at[0], at[1]]
                logits.append(product_.sum(2) / math.sqrt(head_dim))
                values.append(value[..., at[0], at[1]])
            weights = torch.stack(logits).softmax(0)  # (K², B, h)
            row.append((weights[..., None] * torch.stack(values)).sum(0))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def make_exact_logits_(query, key, magnitude):
    """Fill with numbers of which every order of operations gives the same logits.

    Query and key are -1, 0 and 1, the query times the magnitude, a power of two. Many logits are
    equal, so that at any magnitude several keys share the weight.
    """
    with torch.no_grad():
        query.copy_(torch.randint_like(query, -1, 2) * magnitude)
        key.copy_(torch.randint_like(key, -1, 2))


def assert_each_within_budget(function, reference, inputs):
    """Hold output and gradients, one by one, against those of the reference."""
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    results = (
        output_and_gradients(function, inputs),
        output_and_gradients(reference, inputs),
        output_and_gradients(reference, exact_inputs),
    )
    for actual, theirs, exact in zip(*results, strict=True):
        assert_within_budget([actual], [theirs], [exact])


def make_overflowing_logits(dtype, size, **kwargs):
    """Make inputs in half precision, some of whose logits it does not hold.

    They lie on grids, on which no logit is rounded in float32: else two orders of its sum would
    differ by more than a rounding of half precision where it is large.
    """
    query, key, value = make_inputs(size, head_dim=16, dtype=torch.float32, **kwargs)
    with torch.no_grad():
        # of every other query all keys have a share
        strength = torch.tensor([300, 1e-2], device=query.device).repeat(size[1])[: size[1]]
        grid = torch.tensor([8, 2**-12], device=query.device).repeat(size[1])[: size[1]]
        query.mul_(strength / grid).round_().mul_(grid)
        key.mul_(300 / 8).round_().mul_(8)
        assert 16**-0.5 * (query * key).sum(2).abs().max() > torch.finfo(torch.float16).max
    return [x.detach().to(dtype).requires_grad_() for x in (query, key, value)]


def assert_within_budget(actual, reference, exact):
    """Allow twice the error of the reference in the same dtype, and one rounding.

    Rounded are terms as large as the largest tensor's; in some gradients, all of them cancel.
    """
    magnitude = max(truth.square().mean().sqrt() for truth in exact)
    for ours, theirs, truth in zip(actual, reference, exact, strict=True):
        assert ours.dtype == theirs.dtype
        rounding = torch.finfo(ours.dtype).eps * magnitude * truth.numel() ** 0.5
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm() + rounding  # false for NaN

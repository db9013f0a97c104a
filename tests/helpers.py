"""Shared by several test files: devices, gradients, mirrored borders, golden files."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden.fill import fill_

from hybrid_backbones.ops import triton_support

GOLDEN = Path(__file__).resolve().parent / "golden"

needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])

interpreted = pytest.mark.skipif(
    not (triton_support.INSTALLED and triton_support.INTERPRETED),
    reason="needs Triton with TRITON_INTERPRET=1",
)
compiled = [
    *needs_cuda,
    pytest.mark.skipif(not triton_support.INSTALLED, reason="needs Triton"),
]
# where kernels in Triton run: interpreted on the CPU, or else compiled on a GPU
places = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=compiled)]
)


def output_and_gradients(function, inputs):
    """Run `function(*inputs)`; return its output and the gradient of each input.

    The loss is the sum of the output under signs that are the same in every dtype and on every
    device.
    """
    out = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(2, out.shape, generator=generator) * 2 - 1
    return [out.detach(), *torch.autograd.grad(out, inputs, signs.to(out))]


def mirror(position, length):
    """Return the pixel in `[0, length)` that stands at `position` of a mirrored axis."""
    if length == 1:
        return 0
    while not 0 <= position < length:
        position = -position if position < 0 else 2 * (length - 1) - position
    return position


def assert_same_tensors(actual, expected):
    """Require the same names, each with the same dtype and values, in contiguous memory."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        assert actual[name].is_contiguous()
        assert torch.equal(actual[name], value), name


def golden_files(pattern):
    """Return the golden files whose names match, each as (stem, content)."""
    files = [(path.stem, json.loads(path.read_text())) for path in sorted(GOLDEN.glob(pattern))]
    assert files, f"no golden file matches {pattern}"
    return files


def published_weights(golden):
    """Make the checkpoint that a golden file was made with, under its published names."""
    weights = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype))
        for name, shape, dtype in golden["entries"]
    }
    fill_(SimpleNamespace(state_dict=lambda: weights))
    return weights

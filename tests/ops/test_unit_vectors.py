"""Laws of unit vectors: length one, and the gradients of what they are defined as."""

import pytest
import torch
import torch.nn.functional as F
from helpers import output_and_gradients

from hybrid_backbones.ops.swiftformer import EPS, unit_vectors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_vectors_of_any_length_become_unit_vectors(dtype):
    # squares, and the length of the last, are beyond float16
    lengths = torch.tensor([1e-6, 1e-3, 1.0, 1e4], dtype=dtype)[:, None]
    x = lengths.expand(-1, 100)
    torch.testing.assert_close(unit_vectors(x, 1), torch.full_like(unit_vectors(x, 1), 0.1))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("length", [0.0, 0.1 * EPS, 10 * EPS, 1.0, 1e4], ids=str)
def test_outputs_and_gradients_are_those_of_the_definition(length, dim):
    x = F.normalize(torch.randn(2, 5, 7, dtype=torch.float64), dim=dim) * length
    x.requires_grad_()
    actual = output_and_gradients(lambda x: unit_vectors(x, dim), [x])
    expected = output_and_gradients(lambda x: F.normalize(x, dim=dim, eps=EPS), [x])
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dim", [1, 2])
def test_first_and_second_derivatives_are_those_of_finite_differences(dim):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unit_vectors(x, dim), x)
    assert torch.autograd.gradgradcheck(lambda x: unit_vectors(x, dim), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_single(dtype):
    x = torch.randn(2, 5, 7, dtype=dtype, requires_grad=True)
    unit, grad = output_and_gradients(lambda x: unit_vectors(x, 2), [x])
    assert (unit.dtype, grad.dtype) == (torch.float32, dtype)
    single = x.detach().float().requires_grad_()
    expected, expected_grad = output_and_gradients(lambda x: unit_vectors(x, 2), [single])
    torch.testing.assert_close([unit, grad], [expected, expected_grad.to(dtype)], rtol=0, atol=0)

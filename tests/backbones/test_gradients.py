"""Gradients of all operators and backbones are those of what they compute, one image or two."""

from copy import deepcopy
from itertools import product

import pytest
import torch
from backbone_cases import build, each_kind, make_images
from layouts import FORMATS, fill
from operator_cases import CHANNELS, each_operator, make_uneven
from torch.func import functional_call

each_batch = pytest.mark.parametrize("batch", [1, 2])
each_mode = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@each_batch
@each_mode
@each_operator
def test_an_operator_passes_the_gradient_check(make, training, batch):
    operator = make_uneven(make()).double().train(training)
    for size, memory_format in product([(4, 3), (1, 8)], FORMATS):
        x = fill((batch, CHANNELS, *size), memory_format, dtype=torch.float64).requires_grad_()
        inputs = [x, *operator.parameters()]
        assert torch.autograd.gradcheck(lambda x, *_: operator(x), inputs, fast_mode=True)


def slope(function, tensors, directions, step=1e-9):
    """Differentiate along directions of all tensors at once, by differences of the function."""
    values = []
    with torch.no_grad():
        for sign in (1, -2, 1):  # forward, back, and to where it was
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.add_(direction, alpha=sign * step)
            values.append(function())
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 2])
@each_mode
@each_kind
def test_gradients_of_a_backbone_are_slopes(network, settings, training, batch):
    model = make_uneven(build(network, settings)).double().train(training)
    images = make_images(batch, 64, 36, dtype=torch.float64)
    tensors = [images.requires_grad_(), *model.parameters()]
    directions = [torch.randn_like(x) for x in tensors]
    for memory_format in FORMATS:
        outs = model(images)
        weights = [fill(out.shape, memory_format, dtype=out.dtype) for out in outs]

        def weigh(weights=weights):
            return sum(
                (out * weight).sum() for out, weight in zip(model(images), weights, strict=True)
            )

        grads = torch.autograd.grad(outs, tensors, weights)
        actual = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
        torch.testing.assert_close(actual, slope(weigh, tensors, directions), rtol=1e-5, atol=0)


@pytest.mark.parametrize("with_cp", [False, True])
@each_kind
def test_the_backward_pass_has_the_weights_and_the_mode_of_the_forward_pass(
    network, settings, with_cp
):
    model = make_uneven(build(network, settings, with_cp=with_cp)).double().eval()
    images = make_images(1, 64, 36, dtype=torch.float64)
    weights = {name: (1.1 * w.detach()).requires_grad_() for name, w in model.named_parameters()}
    other = deepcopy(model)
    other.load_state_dict(weights, strict=False)
    directions = [torch.randn_like(out) for out in other(images)]
    expected = torch.autograd.grad(other(images), list(other.parameters()), directions)
    outs = functional_call(model, weights, (images,))
    model.train()
    actual = torch.autograd.grad(outs, list(weights.values()), directions)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)

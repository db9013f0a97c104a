"""Operators whose gradient is written by hand, under the transforms of `torch.func`."""

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from hybrid_backbones.benchmark.counts import kept_bytes
from hybrid_backbones.ops import (
    BiLevelRoutingAttention,
    local_attention,
    pixel_shift_attention,
    routed_attention,
    shifted_window_attention,
)
from hybrid_backbones.ops.custom_gradient import with_gradient
from hybrid_backbones.ops.swiftformer import unit_vectors
from hybrid_backbones.recompute import recompute_before_last

ROUTES = torch.tensor([[[0, 2], [1, 2], [2, 0]]])

MAP = (1, 2, 3, 4)
OPERATORS = {
    "local": (lambda *x: local_attention(*x, 3, backend="tiled"), [(1, 1, 2, 3, 4)] * 3),
    "routed": (
        lambda *x: routed_attention(*x, ROUTES, 1, backend="chunked"),
        [(1, 3, 2, 2), (1, 3, 3, 2), (1, 3, 3, 2)],
    ),
    "pixel shift": (lambda *x: pixel_shift_attention(*x, backend="shifted"), [MAP] * 3),
    "windows": (lambda *x: shifted_window_attention(*x, 2, 1), [MAP, MAP, MAP, (1, 4, 4)]),
    "unit vectors": (lambda x: unit_vectors(x, 2), [(1, 3, 4)]),
}
each_operator = pytest.mark.parametrize(
    ("operator", "shapes"), OPERATORS.values(), ids=list(OPERATORS)
)

EXACT = dict(rtol=1e-10, atol=1e-12)


def make(shapes, *samples):
    return [torch.randn(*samples, *shape, dtype=torch.float64) for shape in shapes]


def everything(inputs):
    return tuple(range(len(inputs)))


def gradients(function, inputs):
    """Differentiate by autograd."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*inputs), inputs)


def cubed(operator):
    return lambda *x: operator(*x).pow(3).sum()


@each_operator
def test_grad_is_that_of_autograd(operator, shapes):
    loss, inputs = cubed(operator), make(shapes)
    actual = grad(loss, everything(inputs))(*inputs)
    torch.testing.assert_close(actual, gradients(loss, inputs), **EXACT)


@each_operator
def test_vjp_is_the_pull_back_of_autograd(operator, shapes):
    inputs = make(shapes)
    out, pull = vjp(operator, *inputs)
    vector = torch.randn_like(out)
    expected = gradients(lambda *x: (operator(*x) * vector).sum(), inputs)
    torch.testing.assert_close(pull(vector), expected, **EXACT)


@each_operator
def test_vmap_is_one_sample_after_another(operator, shapes):
    inputs = make(shapes, 3)
    expected = torch.stack([operator(*sample) for sample in zip(*inputs, strict=True)])
    torch.testing.assert_close(vmap(operator)(*inputs), expected, **EXACT)


@each_operator
def test_what_all_samples_share_is_mapped_over_none(operator, shapes):
    first, *shared = [make(shapes, 3)[0], *make(shapes)[1:]]
    actual = vmap(operator, (0, *[None] * len(shared)))(first, *shared)
    expected = torch.stack([operator(x, *shared) for x in first])
    torch.testing.assert_close(actual, expected, **EXACT)


@each_operator
def test_each_sample_has_its_gradient(operator, shapes):
    loss, inputs = cubed(operator), make(shapes, 3)
    actual = vmap(grad(loss, everything(inputs)))(*inputs)
    samples = [gradients(loss, sample) for sample in zip(*inputs, strict=True)]
    expected = tuple(torch.stack(x) for x in zip(*samples, strict=True))
    torch.testing.assert_close(actual, expected, **EXACT)


@each_operator
def test_the_jacobian_is_that_of_autograd(operator, shapes):
    inputs = make(shapes)
    expected = torch.autograd.functional.jacobian(operator, tuple(inputs))
    torch.testing.assert_close(jacrev(operator, everything(inputs))(*inputs), expected, **EXACT)


@each_operator
def test_gradients_of_gradients_are_their_derivatives(operator, shapes):
    inputs = [x.requires_grad_() for x in make(shapes)]
    assert torch.autograd.gradgradcheck(operator, inputs)


@each_operator
def test_grad_of_grad_is_that_of_autograd(operator, shapes):
    inputs = make(shapes)

    def twice(differentiate):
        return lambda *x: sum(g.square().sum() for g in differentiate(cubed(operator), x))

    nested = grad(twice(lambda f, x: grad(f, everything(x))(*x)), everything(inputs))(*inputs)
    by_autograd = twice(lambda f, x: torch.autograd.grad(f(*x), x, create_graph=True))
    torch.testing.assert_close(nested, gradients(by_autograd, inputs), **EXACT)


def of_gradients(loss, places):
    """Return a loss of the gradients of a loss."""
    return lambda *x: sum(g.square().sum() for g in grad(loss, places)(*x))


@each_operator
@pytest.mark.parametrize("shares", [False, True], ids=["each its own", "shared"])
def test_each_sample_has_its_gradient_of_gradients(operator, shapes, shares):
    places = everything(shapes)
    twice = grad(of_gradients(cubed(operator), places), places)
    first, *others = make(shapes, 2)
    if shares:
        others = [x[0] for x in others]
    actual = vmap(twice, (0, *[None if shares else 0] * len(others)))(first, *others)
    samples = [twice(first[i], *(x if shares else x[i] for x in others)) for i in range(2)]
    expected = tuple(torch.stack(x) for x in zip(*samples, strict=True))
    torch.testing.assert_close(actual, expected, **EXACT)


@each_operator
def test_third_derivatives_are_the_slopes_of_the_second(operator, shapes):
    inputs, places = [0.3 * x for x in make(shapes)], everything(shapes)
    loss = of_gradients(of_gradients(cubed(operator), places), places)
    direction = make(shapes)

    def along(step):
        return loss(*(x + step * d for x, d in zip(inputs, direction, strict=True))).item()

    slope = sum((g * d).sum() for g, d in zip(grad(loss, places)(*inputs), direction, strict=True))
    numeric = (8 * (along(1e-4) - along(-1e-4)) - (along(2e-4) - along(-2e-4))) / 12e-4
    assert slope.item() == pytest.approx(numeric, rel=1e-6)


@each_operator
def test_derivatives_of_autograd_are_those_of_the_transforms(operator, shapes):
    inputs = make(shapes)
    loss = of_gradients(cubed(operator), everything(inputs))
    expected = grad(loss, everything(inputs))(*inputs)
    given = [x.requires_grad_() for x in inputs]
    first = torch.autograd.grad(cubed(operator)(*given), given, create_graph=True)
    actual = torch.autograd.grad(sum(x.pow(2).sum() for x in first), given)
    torch.testing.assert_close(actual, expected, **EXACT)


class Square:
    """The square by a gradient of its own, which counts how often it is computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, others=None):
        def square(x, others):
            self.calls += 1
            return x * x

        return with_gradient(square, lambda grad, x, _: (2 * x * grad,), x, others)


def test_what_computes_its_input_again_does_not_compute_it_again():
    square, x = Square(), torch.randn(4, dtype=torch.float64, requires_grad=True)

    def compute(x):
        return recompute_before_last(lambda x: square(x.exp()), x)

    assert kept_bytes(lambda: compute(x)) == x.nbytes
    square.calls = 0
    out = compute(x)
    actual = torch.autograd.grad(out.sum(), x)
    assert square.calls == 1
    torch.testing.assert_close((out, *actual), ((2 * x).exp(), 2 * (2 * x).exp()), **EXACT)


@pytest.mark.parametrize("others", [None, 3, torch.arange(4), torch.ones(4)], ids=str)
def test_arguments_that_need_no_gradient_are_kept_as_they_are(others):
    x = torch.randn(4, requires_grad=True)
    assert torch.equal(torch.autograd.grad(Square()(x, others).sum(), x)[0], 2 * x)


def test_a_graph_is_used_twice_only_if_it_is_retained():
    x = torch.randn(4, requires_grad=True)
    out = Square()(x).sum()
    first = torch.autograd.grad(out, x, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(out, x))
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(out, x)


def test_an_input_that_was_modified_since_is_an_error():
    x = torch.randn(4, requires_grad=True)
    y = x.exp()
    out = Square()(y).sum()
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@each_operator
def test_what_was_transformed_leaves_no_trace_in_later_calls(operator, shapes):
    inputs = make(shapes)
    first = operator(*inputs)
    vmap(grad(cubed(operator)))(*make(shapes, 2))
    torch.testing.assert_close(operator(*inputs), first, rtol=0, atol=0)
    assert gradients(cubed(operator), inputs)[0].isfinite().all()


@each_operator
def test_compiled_gradients_are_those_of_autograd(operator, shapes):
    torch.compiler.reset()
    inputs = make(shapes)
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    expected = gradients(cubed(operator), inputs)
    assert all(x.abs().max() > 0 for x in expected)
    torch.testing.assert_close(gradients(cubed(compiled), inputs), expected, **EXACT)


@each_operator
def test_forward_mode_says_that_it_is_missing(operator, shapes):
    inputs = tuple(make(shapes))
    with pytest.raises(NotImplementedError, match=r"jvp function for custom autograd\.Function"):
        jvp(operator, inputs, inputs)


def test_each_image_has_its_gradient_of_the_weights_of_a_module():
    module = BiLevelRoutingAttention(4, 2, 2, 2).double()
    weights = dict(module.named_parameters())
    images = torch.randn(3, 4, 5, 6, dtype=torch.float64)

    def loss(weights, image):
        return functional_call(module, weights, image[None]).square().sum()

    actual = vmap(grad(loss), (None, 0))(weights, images)
    for i, image in enumerate(images):
        module.zero_grad()
        module(image[None]).square().sum().backward()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(actual[name][i], parameter.grad, **EXACT)

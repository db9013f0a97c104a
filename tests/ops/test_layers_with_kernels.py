"""The layers train with the kernels of their attention as they do with its definition."""

import pytest
import torch
from golden.fill import fill_
from helpers import interpreted, output_and_gradients, places
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_backbones.ops import (
    ACmix,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    XVolution,
    local_attention,
    pixel_shift_attention,
    routed_attention,
    triton_support,
)

pytestmark = [
    pytest.mark.skipif(not triton_support.INSTALLED, reason="needs Triton"),
    # the interpreter of Triton 3.6 with numpy 2
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
LAYERS = {
    "ACmix": lambda **backend: ACmix(16, 16, num_heads=1, attn_kernel_size=3, **backend),
    "routing": lambda **backend: BiLevelRoutingAttention(16, 1, 2, 2, **backend),
    "routing-2d": lambda **backend: BiLevelRoutingAttention2d(16, 1, 2, 2, **backend),
    "X-volution": lambda **backend: XVolution(16, 16, **backend),
    "X-volution-strided": lambda **backend: XVolution(16, 16, stride=2, **backend),
}


ROUTES = torch.tensor([[[0, 2], [1, 2], [2, 0]]])
# by name, with the backend that computes the same without kernels
OPERATORS = {
    "local": (lambda *x, **at: local_attention(*x, 3, **at), (1, 2, 16, 5, 6), "tiled"),
    "routed": (lambda *x, **at: routed_attention(*x, ROUTES, 2, **at), (1, 3, 4, 32), "chunked"),
    "pixel shift": (pixel_shift_attention, (1, 16, 5, 6), "shifted"),
}
each_operator = pytest.mark.parametrize(
    ("operator", "shape", "portable"), OPERATORS.values(), ids=[*OPERATORS]
)


@interpreted
@each_operator
@pytest.mark.parametrize("needed", [(True, True, True), (False, True, True), (True, False, False)])
def test_second_derivatives_are_those_of_the_portable_form(operator, shape, portable, needed):
    maps = torch.randn(3, *shape)

    def differentiate_twice(backend, dtype):
        inputs = [
            x.to(dtype, copy=True).requires_grad_(is_needed)
            for x, is_needed in zip(maps, needed, strict=True)
        ]
        sources = [x for x in inputs if x.requires_grad]
        loss = operator(*inputs, backend=backend).pow(3).sum()
        grads = torch.autograd.grad(loss, sources, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in grads), sources)

    actual = differentiate_twice("triton", torch.float32)
    for ours, exact in zip(actual, differentiate_twice(portable, torch.float64), strict=True):
        assert (ours - exact).norm() <= 1e-5 * exact.norm()


@interpreted
@each_operator
def test_gradients_to_differentiate_are_right_where_inputs_come_from_each_other(
    operator, shape, portable
):
    x = torch.randn(shape)

    def differentiate(backend, create_graph):
        query = x.clone().requires_grad_()
        out = operator(query, 2 * query, query, backend=backend)
        return torch.autograd.grad(out.square().sum(), query, create_graph=create_graph)[0]

    exact = differentiate(portable, create_graph=False)
    for create_graph in (False, True):
        ours = differentiate("triton", create_graph)
        torch.testing.assert_close(ours.detach(), exact, rtol=1e-4, atol=1e-4)


@interpreted
def test_kernels_attend_once_in_each_pass_of_x_volution():
    calls = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    layer = XVolution(16, 16, attn_backend="triton").train()
    with Count():
        out = layer(torch.randn(1, 16, 5, 6, requires_grad=True))
        assert calls.count("pixel_shift_attention") == 1
        out.sum().backward()
    # of query, key and value
    assert calls.count("pixel_shift_attention") == 1 + 3


@places
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_definition(name, device):
    x = torch.randn(1, 16, 5, 6)

    def train(backend):
        layer = fill_(LAYERS[name](attn_backend=backend)).to(device).train()
        inputs = [x.to(device).requires_grad_(), *layer.parameters()]
        return output_and_gradients(lambda x, *_: layer(x), inputs)

    torch.testing.assert_close(train("triton"), train("reference"), rtol=1e-4, atol=1e-4)

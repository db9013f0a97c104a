"""Maps of all operators and backbones lie in memory as PyTorch's normalisations take them."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from backbone_cases import build, each_kind
from layouts import CHANNELS_LAST, FORMATS, LAYOUTS, fill, has_a_format, is_ambiguous, make_picture
from operator_cases import CHANNELS, each_map_operator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.convnext import LayerNorm2d

from hybrid_backbones.layers import join_groups, to_maps, to_tokens

SIZES = [(1, 70), (70, 1), (33, 47)]
OPERATOR_SIZES = [(1, 1), (1, 7), (7, 1), (6, 6), (5, 4)]


def describe(x):
    return f"{tuple(x.shape)} has strides {x.stride()}"


def watch_norms(model):
    """List the inputs of all normalisations of maps, and the gradients that batch norms get."""
    inputs, grads = [], []

    def note(module, arguments, out):
        inputs.append(arguments[0])
        if out.requires_grad and isinstance(module, _BatchNorm):
            out.register_hook(grads.append)

    for module in model.modules():
        if isinstance(module, _BatchNorm | nn.GroupNorm | LayerNorm2d):
            module.register_forward_hook(note)
    return inputs, grads


def strides_of(check, maps):
    """Return the shapes and strides of maps that a check refuses."""
    return [(tuple(x.shape), x.stride()) for x in maps if not check(x)]


def can_be_read_in_one_way(x):
    return not is_ambiguous(x)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@each_kind
def test_norms_and_callers_of_a_backbone_get_maps_in_a_memory_format(network, settings, amp):
    model = build(network, settings).eval()
    inputs, _ = watch_norms(model)
    for batch, size, layout in product((1, 2), SIZES, LAYOUTS):
        inputs.clear()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            outs = model(LAYOUTS[layout](batch, 3, *size))
        assert inputs
        assert not strides_of(has_a_format, [*inputs, *outs])


@each_kind
def test_no_gradient_of_a_batch_norm_can_be_read_as_two_memory_formats(network, settings):
    model = build(network, settings).train()
    expected = any(isinstance(module, _BatchNorm) for module in model.modules())
    _, grads = watch_norms(model)
    for size, memory_format in product(SIZES, FORMATS):
        grads.clear()
        outs = model(fill((1, 3, *size), memory_format))
        torch.autograd.backward(outs, [fill(out.shape, memory_format) for out in outs])
        assert bool(grads) == expected
        assert not strides_of(can_be_read_in_one_way, grads)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@each_map_operator
def test_results_and_gradients_of_an_operator_lie_in_a_memory_format(make, amp):
    operator = make().eval()
    inputs, grads = watch_norms(operator)
    for batch, size, *formats in product((1, 2), OPERATOR_SIZES, FORMATS, FORMATS):
        x = fill((batch, CHANNELS, *size), formats[0]).requires_grad_()
        x.register_hook(grads.append)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            out = operator(x)
        out.backward(fill(out.shape, formats[1], dtype=out.dtype))
        assert not strides_of(has_a_format, [*inputs, out])
        assert not strides_of(can_be_read_in_one_way, grads)
    assert grads


def test_channels_last_maps_are_moved_to_tokens_and_back_without_a_copy():
    x = fill((1, 8, 4, 3), CHANNELS_LAST)
    tokens = to_tokens(x)
    maps = to_maps(tokens, (4, 3))
    assert torch.equal(tokens[0, 5], x[0, :, 1, 2])
    assert torch.equal(maps, x)
    assert maps.stride() == x.stride()
    assert maps.data_ptr() == x.data_ptr()
    joined = join_groups(tokens.view(1, 4, 3, 2, 4).permute(0, 3, 4, 1, 2))
    assert torch.equal(joined, x)
    assert joined.stride() == x.stride()


def test_an_ambiguous_map_is_what_batch_normalisation_gets_wrong():
    # where this fails, PyTorch has mended it, and the contract may be given up
    x = make_picture(1, 8, 4, 3, dtype=torch.float64)
    grad, weight = torch.randn(1, 8, 4, 3).double(), torch.linspace(0.5, 1.5, 8).double()
    assert is_ambiguous(x)
    assert not has_a_format(x)

    def differentiate(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(F.batch_norm(x, None, None, weight, training=True), x, grad)[0]

    expected = differentiate(x.clone(memory_format=torch.contiguous_format))
    assert (differentiate(x) - expected).abs().max() > 0.1
    assert torch.allclose(
        differentiate(fill(x.shape, CHANNELS_LAST, dtype=x.dtype).copy_(x)), expected
    )

"""Laws of X-volution: its branches, their precision, its settings, what it can learn."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from helpers import devices, output_and_gradients
from pixel_shift_attention_cases import (
    EXACT,
    STEPS,
    attention_by_unfolding,
    half_dtypes,
    make_map,
    relative_error,
)
from torch import nn
from xvolution_cases import each_attention, each_operator, make_operator

from hybrid_backbones.ops import MergedXVolution, XVolution


def branches(module, x, settings, training):
    """Compute the module from its weights: both branches by PyTorch's functions."""
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    settings = {"kernel_size": 3, "stride": 1, "dilation": 1, **settings}
    kernel_size, stride, dilation = (settings[k] for k in ("kernel_size", "stride", "dilation"))
    groups = module.conv.groups
    query, key, value = (
        F.conv2d(x, weights[f"{name}.weight"], groups=groups) for name in ("query", "key", "value")
    )
    query = query[..., ::stride, ::stride]
    heads = module.num_heads
    if module.attention == "global":
        tokens = [y.unflatten(1, (heads, -1)).flatten(3) for y in (query, key, value)]
        logits = tokens[0].transpose(2, 3) @ tokens[1] * tokens[0].shape[2] ** -0.5
        attention = (tokens[2] @ logits.softmax(-1).transpose(2, 3)).reshape(query.shape)
    else:
        places = dict(kernel_size=kernel_size, stride=stride, dilation=dilation)
        attention, _ = attention_by_unfolding(query, key, value, heads, **places)
    padding = dilation * (kernel_size // 2)
    bias = weights.get("conv.bias")
    conv = F.conv2d(x, weights["conv.weight"], bias, stride, padding, dilation, groups)

    def normalise(y, name):
        mean, var = (weights[f"{name}.running_{s}"].clone() for s in ("mean", "var"))
        return F.batch_norm(
            y, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], training
        )

    return normalise(conv, "conv_bn") + normalise(attention, "attention_bn")


@each_attention
@each_operator
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_it_is_the_sum_of_two_normalised_branches(size, settings, attention, training):
    module = make_operator(4, 8, attention=attention, **settings).train(training)
    inputs = [make_map(2, 4, *size), *module.parameters()]
    expected = output_and_gradients(lambda x, *_: branches(module, x, settings, training), inputs)
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)


@each_attention
@pytest.mark.parametrize("training", [False, True])
def test_with_the_scale_of_the_attention_at_zero_it_is_the_convolution(attention, training):
    module = make_operator(4, 8, stride=2, attention=attention).train(training)
    nn.init.zeros_(module.attention_bn.weight)
    nn.init.zeros_(module.attention_bn.bias)
    x = make_map(2, 4, 7, 9)
    expected = copy.deepcopy(module.conv_bn)(module.conv(x))
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("settings", [dict(), dict(stride=2), dict(dilation=2)], ids=str)
def test_it_commutes_with_translations_away_from_the_borders(settings, merged):
    module = make_operator(4, 8, **settings)
    module = module.merge() if merged else module
    image = make_map(1, 4, 24, 26)
    down, right = 4, 6
    stride = settings.get("stride", 1)
    whole, part = module(image), module(image[..., down:, right:])
    moved = whole[..., down // stride :, right // stride :]
    torch.testing.assert_close(part[..., 2:-2, 2:-2], moved[..., 2:-2, 2:-2], **EXACT)
    # at its border the part sees zeros and not the rest of the image
    assert (part[..., 0, :] - moved[..., 0, :]).abs().max() > 1e-3


def test_global_attention_does_not_care_where_the_pixels_are():
    module = make_operator(4, 8, attention="global")
    nn.init.zeros_(module.conv_bn.weight)
    x, order = make_map(1, 4, 5, 6), torch.randperm(30)
    shuffled = x.flatten(2)[..., order].view(x.shape)
    expected = module(x).flatten(2)[..., order]
    torch.testing.assert_close(module(shuffled).flatten(2), expected, **EXACT)


@devices
@half_dtypes
@each_attention
@pytest.mark.parametrize("merged", [False, True])
def test_a_half_precision_module_is_close_to_the_exact_one(attention, merged, dtype, device):
    if merged and attention == "global":
        pytest.skip("cannot be merged")
    exact = make_operator(16, 16, stride=2, attention=attention, device=device)
    exact = exact.merge() if merged else exact
    x = torch.randn(2, 16, 17, 13, device=device, dtype=dtype, requires_grad=True)
    expected, *_ = output_and_gradients(lambda x: exact(x), [x.detach().double().requires_grad_()])
    module = copy.deepcopy(exact).to(dtype)
    actual, *grads = output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])
    assert actual.dtype == dtype
    assert all(grad.isfinite().all() for grad in grads)
    assert relative_error(actual.double(), expected) < STEPS * torch.finfo(dtype).eps


@devices
@each_attention
def test_autocast_is_close_to_the_exact_module(attention, device):
    module = make_operator(16, 16, stride=2, attention=attention, device=device).float()
    x = torch.randn(2, 16, 17, 13, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), module(x)) < STEPS * torch.finfo(torch.bfloat16).eps
    out.float().square().sum().backward()
    assert all(p.grad.dtype == p.dtype for p in module.parameters())
    assert all(p.grad.isfinite().all() for p in module.parameters())


@devices
@each_attention
def test_channels_last_gives_the_same(attention, device):
    module = make_operator(8, 8, stride=2, num_heads=2, attention=attention, device=device)
    x = make_map(2, 8, 9, 7, device=device)
    inputs = [x, *module.parameters()]
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    module = module.to(memory_format=torch.channels_last)
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    actual = output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])
    torch.testing.assert_close(actual, expected, **EXACT)
    # on a GPU, convolutions in float64 return another layout
    if device == "cpu":
        assert module(x).is_contiguous(memory_format=torch.channels_last)


@each_attention
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("merged", [False, True])
def test_it_compiles_into_one_graph(stride, attention, merged):
    if merged and attention == "global":
        pytest.skip("cannot be merged")
    torch.compiler.reset()
    module = make_operator(8, 8, stride=stride, attention=attention)
    module = module.merge() if merged else module.train()
    inputs = [make_map(2, 8, 9, 10), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@each_attention
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 12), (13, 7)], ids=str)
def test_a_stride_rounds_sizes_up(size, stride, attention):
    out = XVolution(4, 8, stride=stride, attention=attention)(torch.randn(2, 4, *size))
    assert out.shape == (2, 8, *(-(-side // stride) for side in size))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_heads=3), "num_heads=3, out_channels=8"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(kernel_size=4, padding=2), "kernel_size=4"),
        (dict(kernel_size=0, padding=0), "kernel_size=0"),
        (dict(padding=0), "padding must be .* = 1, got padding=0"),
        (dict(dilation=2), "padding must be .* = 2, got padding=1"),
        (dict(stride=0), "stride"),
        (dict(dilation=0, padding=0), "dilation"),
        (dict(groups=3), "divisible by groups"),
        (dict(attn_backend="fastest"), "backend.*'fastest'"),
        (dict(attention="local"), r"attention .*'shift', 'global'.*'local'"),
        (dict(attention="global", attn_backend="shifted"), "no backends.*'shifted'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("operator", [XVolution, MergedXVolution])
def test_a_bad_setting_is_named_at_construction(operator, settings, message):
    if not settings.keys() <= inspect.signature(operator).parameters.keys():
        pytest.skip("a setting of the branches")
    with pytest.raises(ValueError, match=message):
        operator(8, 8, **settings)


def mosaic():
    """Make rows of bits, and whether each equals its right neighbour.

    Every third column has a channel of its own, as colour filters lie over a camera's sensor: the
    weights of the attention know what stands at an offset, and not the offset.
    """
    bits = torch.randint(2, (32, 1, 1, 24)).float()
    columns = F.one_hot(torch.arange(24) % 3).T[:, None]  # (3, 1, W)
    return bits * columns, (bits[..., 1:] == bits[..., :-1]).float()


def learn(layer):
    """Train a layer of eight channels and a linear classifier; return the accuracy."""
    model = nn.Sequential(layer, nn.Conv2d(8, 1, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        rows, labels = mosaic()
        loss = F.binary_cross_entropy_with_logits(model(rows)[..., :-1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows, labels = map(torch.cat, zip(*(mosaic() for _ in range(20)), strict=True))
    hits = (model.eval()(rows)[..., :-1] > 0) == labels.bool()
    return hits.float().mean().item()


def test_it_learns_a_product_of_two_pixels_that_a_convolution_cannot():
    layer = XVolution(3, 8)
    convolution = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8))
    sizes = [sum(p.numel() for p in module.parameters()) for module in (layer, convolution)]
    assert sizes[0] < sizes[1]
    assert learn(layer) > 0.99
    # a linear function of the bits is right in three of the four cases at best
    assert learn(convolution) < 0.76


@pytest.mark.parametrize("magnitude", [1, 100])
@each_attention
@half_dtypes
def test_half_precision_trains_at_any_magnitude_of_the_input(dtype, attention, magnitude):
    module = XVolution(16, 16, attention=attention)
    with torch.no_grad():
        # small logits, whose rounding softmax does not enlarge; the normalisation takes it away
        for projection in (module.query, module.key):
            projection.weight.div_(magnitude if attention == "global" else 1)
    exact = copy.deepcopy(module).double()
    x = magnitude * torch.randn(2, 16, 9, 7)
    signs = torch.randint(2, x.shape) * 2.0 - 1
    with torch.autocast("cpu", dtype):
        out = module(x)
    assert out.dtype == dtype
    out.backward(signs.to(dtype))
    expected = exact(x.double())
    expected.backward(signs.double())
    bound = 10 * torch.finfo(dtype).eps
    assert relative_error(out.double(), expected) < bound  # false for NaN
    weights = dict(exact.named_parameters())
    for name, weight in module.named_parameters():
        assert relative_error(weight.grad.double(), weights[name].grad) < bound, name

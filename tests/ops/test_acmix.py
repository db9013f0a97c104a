"""Laws of ACmix: its formulas, its initialisation, its precision."""

import pytest
import torch
import torch.nn.functional as F
from acmix_cases import (
    EXACT,
    acmix_by_index,
    assert_shifts,
    build_exact,
    build_published,
    make_image,
)
from golden.fill import compare, fill_, make_input
from helpers import devices, golden_files, output_and_gradients

from hybrid_backbones.ops import ACmix, XVolution
from hybrid_backbones.ops.acmix import position_map
from hybrid_backbones.ops.local_attention.api import BACKENDS

golden_operators = golden_files("acmix_op*.json")
golden_cases = pytest.mark.parametrize(
    ("arguments", "case"),
    [
        pytest.param(case.get("arguments", golden.get("arguments")), case, id=f"{stem}-{i}")
        for stem, golden in golden_operators
        for i, case in enumerate(golden["cases"])
    ],
)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        pytest.param((7, 9), dict(), id="default"),
        pytest.param((7, 9), dict(stride=2), id="stride 2, odd sizes"),
        pytest.param((6, 8), dict(stride=2), id="stride 2, even sizes"),
        pytest.param((7, 8), dict(stride=3, attn_kernel_size=5), id="stride 3"),
        pytest.param((7, 9), dict(dilation=2, padding=2), id="dilation 2"),
        pytest.param((7, 6), dict(stride=2, dilation=3, padding=3), id="stride 2, dilation 3"),
        pytest.param((5, 7), dict(kernel_size=1, padding=0), id="kernel 1"),
        pytest.param((5, 7), dict(kernel_size=5, padding=2, stride=2), id="kernel 5"),
        pytest.param((5, 7), dict(attn_kernel_size=1), id="attention kernel 1"),
        pytest.param((5, 7), dict(attn_kernel_size=5, dilation=2, padding=2), id="attn kernel 5"),
        pytest.param((5, 7), dict(num_heads=1), id="one head"),
        pytest.param((5, 7), dict(num_heads=8), id="heads of one channel"),
        pytest.param((5, 7), dict(bias=False, stride=2), id="no bias"),
        pytest.param((1, 1), dict(), id="one pixel"),
        pytest.param((2, 3), dict(stride=2), id="map below the radius"),
        pytest.param((1, 5), dict(dilation=2, padding=2), id="one row"),
        pytest.param((12, 1), dict(attn_kernel_size=3), id="one column, two tiles"),
    ],
)
def test_it_computes_the_published_formulas(size, settings):
    module = build_exact(6, 8, **settings)
    inputs = [make_image(2, 6, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: acmix_by_index(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@golden_cases
def test_outputs_and_gradients_are_the_published_ones(arguments, case):
    module = fill_(build_published(arguments))
    x = make_input(case["shape"], case["seed"]).requires_grad_()
    out = module(x)
    compare([out], case["features"])
    names = ["input", *dict(module.named_parameters())]
    loss = (out * make_input(out.shape, seed=7)).sum()
    grads = dict(zip(names, torch.autograd.grad(loss, [x, *module.parameters()]), strict=True))
    assert grads.keys() == case["grads"].keys()
    # zero in exact arithmetic, so what is recorded is rounding noise
    assert grads.pop("conv_p.bias").abs().max() < 1e-3
    compare(grads.values(), [case["grads"][name] for name in grads])


@pytest.mark.parametrize(
    ("arguments", "entries"),
    [
        pytest.param(owner.get("arguments", golden.get("arguments")), owner["entries"], id=stem)
        for stem, golden in golden_operators
        for owner in [golden, *golden["cases"]]
        if "entries" in owner
    ],
)
def test_entries_are_the_published_ones(arguments, entries):
    own = {name: list(x.shape) for name, x in build_published(arguments).state_dict().items()}
    assert own == {name: shape for name, shape, _ in entries}


def test_coordinates_run_from_minus_one_to_one():
    xs, ys = position_map(3, 5, torch.float32, device=torch.device("cpu"))[0]
    assert xs.tolist() == [[-1, -0.5, 0, 0.5, 1]] * 3
    assert ys.T.tolist() == [[-1, 0, 1]] * 5


def test_the_coordinate_of_a_single_pixel_is_minus_one():
    grid = position_map(1, 1, torch.float32, device=torch.device("cpu"))
    assert grid.flatten().tolist() == [-1, -1]


def test_the_bias_of_the_positions_cancels():
    module, x = build_exact(8, 8), make_image(1, 8, 5, 6)
    before = module(x)
    grad = torch.autograd.grad(before.square().sum(), module.conv_p.bias)[0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), **EXACT)
    torch.nn.init.normal_(module.conv_p.bias)
    torch.testing.assert_close(module(x), before, **EXACT)


@devices
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(stride=2),
        dict(dilation=2, padding=2),
        dict(kernel_size=5, padding=2, stride=3),
        dict(kernel_size=1, padding=0),
    ],
    ids=str,
)
def test_without_attention_it_is_a_convolution(settings, device):
    module = build_exact(6, 8, bias=False, device=device, **settings)
    torch.nn.init.zeros_(module.rate1)
    heads = torch.cat([module.conv1.weight, module.conv2.weight, module.conv3.weight])
    heads = heads.flatten(1).unflatten(0, (12, 2)).repeat_interleave(4, 1)  # (3n, C, in channels)
    mixing = module.fc.weight.flatten(1)
    dense = torch.einsum("ctyx,th,hci->ciyx", module.dep_conv.weight, mixing, heads)
    x = make_image(2, 6, 9, 11, device=device)
    settings = {"padding": 1, **settings}
    settings.pop("kernel_size", None)
    torch.testing.assert_close(module(x), module.rate2 * F.conv2d(x, dense, **settings), **EXACT)


@devices
@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_a_named_attention_backend_runs_and_gives_the_same(monkeypatch, backend, device):
    x = make_image(1, 8, 11, 13, device=device)
    expected = build_exact(8, 8, stride=2, device=device)(x)
    for name in BACKENDS.keys() - {backend}:
        monkeypatch.setitem(BACKENDS, name, None)  # raises when it is called
    named = build_exact(8, 8, attn_backend=backend, stride=2, device=device)
    torch.testing.assert_close(named(x), expected, **EXACT)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 12), (13, 7)], ids=str)
def test_a_stride_rounds_sizes_up(size, stride):
    out = ACmix(4, 8, stride=stride)(torch.randn(1, 4, *size))
    assert out.shape == (1, 8, *(-(-side // stride) for side in size))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_kernels_begin_as_shifts_and_rates_as_one_half(kernel_size):
    module = ACmix(8, 8, kernel_size, padding=kernel_size // 2)
    assert_shifts(module.dep_conv.weight)
    assert module.rate1.tolist() == module.rate2.tolist() == [0.5]


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


# of a dozen independent roundings, each of half a step
STEPS = 2
half_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@devices
@half_dtypes
@pytest.mark.parametrize("stride", [1, 2])
def test_a_half_precision_module_is_close_to_the_exact_one(stride, dtype, device):
    exact = build_exact(16, 16, stride=stride, device=device)
    x = torch.randn(2, 16, 17, 13, device=device, dtype=dtype, requires_grad=True)
    expected, *_ = output_and_gradients(lambda x: exact(x), [x.detach().double().requires_grad_()])
    module = build_exact(16, 16, stride=stride, device=device).to(dtype)
    actual, *grads = output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])
    assert actual.dtype == dtype
    assert all(grad.isfinite().all() for grad in grads)
    assert relative_error(actual.double(), expected) < STEPS * torch.finfo(dtype).eps


@devices
def test_autocast_is_close_to_the_exact_module(device):
    module = build_exact(16, 16, stride=2, device=device).float()
    x = torch.randn(2, 16, 17, 13, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), module(x)) < STEPS * torch.finfo(torch.bfloat16).eps
    out.float().square().sum().backward()
    assert all(p.grad.dtype == p.dtype for p in module.parameters())
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_it_compiles_into_one_graph(stride):
    torch.compiler.reset()
    module = build_exact(8, 8, stride=stride)
    inputs = [make_image(1, 8, 9, 10), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_heads=3), "num_heads=3, out_channels=8"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(num_heads=-4), "num_heads=-4"),
        (dict(kernel_size=4, padding=2), "kernel_size=4"),
        (dict(kernel_size=0, padding=0), "kernel_size=0"),
        (dict(kernel_size=-1, padding=-1), "kernel_size=-1"),
        (dict(attn_kernel_size=6), "attn_kernel_size=6"),
        (dict(attn_kernel_size=0), "attn_kernel_size=0"),
        (dict(attn_kernel_size=-1), "attn_kernel_size=-1"),
        (dict(padding=0), "padding must be .* = 1, got padding=0"),
        (dict(kernel_size=5), "padding must be .* = 2, got padding=1"),
        (dict(dilation=2), "padding must be .* = 2, got padding=1"),
        (dict(stride=0), "stride"),
        (dict(dilation=0, padding=0), "dilation"),
        (dict(attn_backend="fastest"), "backend.*'fastest'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        ACmix(8, 8, **settings)


@pytest.mark.parametrize("layer", [ACmix, XVolution])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "dilation"])
def test_sizes_of_a_convolution_are_integers(layer, name):
    # `nn.Conv2d` has tuples, which whoever replaces one may pass on
    with pytest.raises(ValueError, match=rf"{name}.*integer|{name} must be odd"):
        layer(8, 8, **{name: (3, 3)})

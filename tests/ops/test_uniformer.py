"""Laws of UniFormer's relation aggregators, local and global."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from golden.fill import fill_
from helpers import devices, output_and_gradients

from hybrid_backbones.ops.uniformer import (
    GlobalRelationAggregator,
    LocalRelationAggregator,
)

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)
SETTINGS = [
    pytest.param(dict(), id="all positions"),
    pytest.param(dict(window_size=3), id="windows"),
]
SIZES = [(6, 3), (7, 5), (1, 1), (2, 9), (4, 1)]
each_setting = pytest.mark.parametrize("settings", SETTINGS)
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def build(network, *args, device="cpu", dtype=torch.float64, **kwargs):
    """Build an operator with no two equal weights."""
    return fill_(network(*args, **kwargs)).to(device, dtype)


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def attention_by_formula(module, x):
    """Compute the attention of one map, one window, one head and one query after another."""
    batch, channels, height, width = x.shape
    side = module.window_size or max(height, width)
    dims = channels // module.num_heads
    out = {}
    tops, lefts = range(0, height, side), range(0, width, side)
    for b, top, left in product(range(batch), tops, lefts):
        places = list(product(range(top, top + side), range(left, left + side)))
        if module.window_size is None:
            places = [(y, z) for y, z in places if y < height and z < width]
        zero = x.new_zeros(channels)
        tokens = [x[b, :, y, z] if y < height and z < width else zero for y, z in places]
        qkv = [module.qkv.weight @ token + module.qkv.bias for token in tokens]
        for (y, z), mine in zip(places, qkv, strict=True):
            if y >= height or z >= width:
                continue
            heads = []
            for h in range(module.num_heads):
                start = h * dims
                query = mine[start : start + dims]
                keys = [other[channels + start :][:dims] for other in qkv]
                values = [other[2 * channels + start :][:dims] for other in qkv]
                logits = torch.stack([query @ key / dims**0.5 for key in keys])
                heads.append(logits.softmax(0) @ torch.stack(values))
            mixed = module.proj.weight @ torch.cat(heads) + module.proj.bias
            out[b, y, z] = mixed
    places = product(range(batch), range(height), range(width))
    flat = torch.stack([out[place] for place in places])
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


@each_setting
@each_size
def test_attention_computes_its_formula(settings, size):
    module = build(GlobalRelationAggregator, 6, 3, **settings)
    inputs = [make_map(2, 6, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: attention_by_formula(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@each_size
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_local_relations_compute_their_formula(size, kernel_size):
    module = build(LocalRelationAggregator, 4, kernel_size)

    def by_index(x):
        x = torch.einsum("oi,bihw->bohw", module.conv1.weight[:, :, 0, 0], x)
        x = x + module.conv1.bias[:, None, None]
        out = torch.zeros_like(x) + module.attn.bias[:, None, None]
        radius = kernel_size // 2
        padded = F.pad(x, (radius,) * 4)
        for i, j in product(range(kernel_size), repeat=2):
            affinity = module.attn.weight[:, 0, i, j, None, None]
            out = out + affinity * padded[:, :, i : i + size[0], j : j + size[1]]
        out = torch.einsum("oi,bihw->bohw", module.conv2.weight[:, :, 0, 0], out)
        return out + module.conv2.bias[:, None, None]

    inputs = [make_map(2, 4, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: by_index(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        (LocalRelationAggregator, dict()),
        *[(GlobalRelationAggregator, dict(param.values[0], head_dims=2)) for param in SETTINGS],
    ],
    ids=str,
)
def test_gradients_are_those_of_differences(network, settings):
    module = build(network, 4, **settings)
    assert torch.autograd.gradcheck(module, make_map(1, 4, 4, 2))


def test_other_windows_have_no_influence():
    module, x = build(GlobalRelationAggregator, 8, 4, window_size=3), make_map(1, 8, 8, 7)
    other = x.detach().clone()
    other[:, :, 3:6, 6:] += 1
    changed = ((module(x) - module(other)).abs() > 1e-9).any(1)[0]
    expected = torch.zeros(8, 7, dtype=torch.bool)
    expected[3:6, 6:] = True
    assert torch.equal(changed, expected)


def test_attention_has_no_order():
    module, x = build(GlobalRelationAggregator, 8, 4), make_map(2, 8, 5, 3)
    order = torch.randperm(15)
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (5, 3))
    expected = module(x).flatten(2)[:, :, order].unflatten(2, (5, 3))
    torch.testing.assert_close(module(shuffled), expected, **EXACT)


@devices
@each_setting
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_to_exact(settings, dtype, device):
    x = make_map(2, 16, 7, 5, device=device)
    exact = build(GlobalRelationAggregator, 16, 8, device=device, **settings)(x)
    module = build(GlobalRelationAggregator, 16, 8, device=device, dtype=dtype, **settings)
    half = module(x.to(dtype))
    assert half.dtype == dtype
    error = (half.double() - exact).norm() / exact.norm()
    # of a dozen independent roundings, each of half a step
    assert error < 2 * torch.finfo(dtype).eps


@devices
@each_setting
def test_autocast_trains(settings, device):
    module = build(GlobalRelationAggregator, 16, 8, device=device, dtype=torch.float32, **settings)
    x = make_map(2, 16, 7, 5, device=device, dtype=torch.float32)
    with torch.autocast(device, torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in (x, *module.parameters()))
    assert all(p.grad.isfinite().all() for p in (x, *module.parameters()))


@pytest.mark.parametrize("settings", [*SETTINGS, None], ids=str)
def test_it_compiles_into_one_graph(settings):
    torch.compiler.reset()
    if settings is None:
        module = build(LocalRelationAggregator, 8)
    else:
        module = build(GlobalRelationAggregator, 8, 4, **settings)
    inputs = [make_map(2, 8, 7, 5), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GlobalRelationAggregator(8, 3), "head_dims=3, embed_dims=8"),
        (lambda: GlobalRelationAggregator(8, 0), "head_dims=0"),
        (lambda: GlobalRelationAggregator(8, 4, window_size=0), "window_size=0"),
        (lambda: LocalRelationAggregator(8, 4), "kernel_size=4"),
        (lambda: LocalRelationAggregator(8, -1), "kernel_size=-1"),
    ],
    ids=["head_dims", "no head_dims", "window_size", "even kernel", "negative kernel"],
)
def test_a_bad_setting_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()

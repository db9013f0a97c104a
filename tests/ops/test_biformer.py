"""Laws of bi-level routing attention: its formulas, its routes, its padding."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from golden.fill import compare, fill_, make_input
from helpers import devices, golden_files, output_and_gradients

from hybrid_backbones.ops import biformer
from hybrid_backbones.ops.biformer import (
    AttentionLePE,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
)
from hybrid_backbones.ops.routed_attention import api, chunked

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-11)
backends = pytest.mark.parametrize("backend", ["reference", "chunked"])
both_forms = pytest.mark.parametrize("form", [BiLevelRoutingAttention, BiLevelRoutingAttention2d])


def build_exact(form, *args, **kwargs):
    """Build an operator in float64 with no two equal weights."""
    return fill_(form(*args, **kwargs)).double()


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def operator_by_loops(module, x):
    """Compute the published formulas over regions, heads and tokens, one after another.

    Padding is written out as tokens at positions outside of the map.
    """
    height, width = x.shape[2:]
    side, num_heads, channels = module.num_windows, module.num_heads, x.shape[1]
    weights = dict(module.named_parameters())
    if isinstance(module, BiLevelRoutingAttention2d):
        h, w = max(height // side, 1), max(width // side, 1)
        rows, columns = -(-height // h), -(-width // w)
        projection, output = "qkv_linear", "output_linear"
        padding = torch.zeros(len(x), 3 * channels, dtype=x.dtype)
        only_real = True
    else:
        h, w = -(-height // side), -(-width // side)
        rows = columns = side
        projection, output = "qkv.qkv", "wo"
        padding = weights["qkv.qkv.bias"].expand(len(x), -1)
        only_real = False

    def linear(name, vector):
        return vector @ weights[f"{name}.weight"].flatten(1).T + weights[f"{name}.bias"]

    def is_real(place):
        return place[0] < height and place[1] < width

    places = list(product(range(rows * h), range(columns * w)))
    tokens = {p: linear(projection, x[:, :, p[0], p[1]]) if is_real(p) else padding for p in places}
    query, key, value = (
        {p: token[:, i * channels : (i + 1) * channels] for p, token in tokens.items()}
        for i in range(3)
    )
    regions = [
        [p for p in places if (p[0] // h, p[1] // w) == (i, j)]
        for i, j in product(range(rows), range(columns))
    ]

    def mean(vectors, region, b):
        counted = [p for p in region if is_real(p) or not only_real]
        return sum(vectors[p][b] for p in counted) / len(counted)

    def convolve(place):
        kernel, total = weights["lepe.weight"][:, 0], weights["lepe.bias"]
        radius = kernel.shape[-1] // 2
        for dy, dx in product(range(-radius, radius + 1), repeat=2):
            p = place[0] + dy, place[1] + dx
            if p in value and (is_real(p) or not only_real):
                total = total + kernel[:, dy + radius, dx + radius] * value[p]
        return total

    out = {}
    for b, region in product(range(len(x)), regions):
        scores = [mean(query, region, b) @ mean(key, other, b) for other in regions]
        order = sorted(range(len(regions)), key=lambda j: -scores[j].item())
        seen = [p for j in order[: module.topk] for p in regions[j]]
        keys, values = (torch.stack([t[p][b] for p in seen]) for t in (key, value))
        for p in filter(is_real, region):
            heads = zip(*(t.chunk(num_heads, -1) for t in (query[p][b], keys, values)), strict=True)
            out[b, p] = torch.cat([(q @ k.T / channels**0.5).softmax(0) @ v for q, k, v in heads])

    def pixel(place):
        attended = torch.stack([out[b, place] for b in range(len(x))])
        return linear(output, attended + convolve(place))

    return torch.stack(
        [torch.stack([pixel((i, j)) for j in range(width)], -1) for i in range(height)], -2
    )


@both_forms
@backends
@pytest.mark.parametrize(
    ("size", "num_windows", "topk"),
    [
        pytest.param((4, 6), 2, 3, id="whole regions"),
        pytest.param((5, 7), 2, 1, id="partly padded"),
        pytest.param((5, 7), 2, 4, id="all regions"),
        pytest.param((5, 4), 3, 2, id="a side divides"),
        pytest.param((7, 4), 3, 6, id="wholly padded column"),
        pytest.param((5, 2), 4, 9, id="fewer real regions than routes"),
        pytest.param((1, 1), 2, 2, id="one pixel"),
        pytest.param((3, 5), 1, 1, id="one region"),
    ],
)
def test_it_computes_the_published_formulas(size, num_windows, topk, form, backend):
    settings = dict(attn_backend=backend, lepe_kernel_size=3)
    module = build_exact(form, 4, 2, num_windows, topk, **settings)
    inputs = [make_map(2, 4, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: operator_by_loops(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


def build_published(stem, arguments):
    """Build an operator from the arguments of the published constructor."""
    if stem == "attention_lepe_op":
        return AttentionLePE(arguments["dim"], lepe_kernel_size=arguments["side_dwconv"])
    form = BiLevelRoutingAttention2d if "nchw" in stem else BiLevelRoutingAttention
    sizes = [arguments[name] for name in ("dim", "num_heads", "n_win", "topk")]
    return form(*sizes, lepe_kernel_size=arguments["side_dwconv"])


@pytest.mark.parametrize(
    ("stem", "case"),
    [
        pytest.param(stem, case, id=f"{stem}-{i}")
        for pattern in ("bra_*op.json", "attention_lepe_op.json")
        for stem, golden in golden_files(pattern)
        for i, case in enumerate(golden["cases"])
    ],
)
def test_entries_outputs_and_gradients_are_the_published_ones(stem, case):
    module = build_published(stem, case["arguments"])
    own = [[name, list(entry.shape)] for name, entry in module.state_dict().items()]
    assert own == [entry[:2] for entry in case["entries"]]
    fill_(module)
    x = make_input(case["shape"], case["seed"]).requires_grad_()
    # published with channels last
    to_map, from_map = ((), ()) if "nchw" in stem else ((0, 3, 1, 2), (0, 2, 3, 1))
    out = module(x.permute(to_map) if to_map else x)
    out = out.permute(from_map) if from_map else out
    compare([out], case["features"])
    loss = (out * make_input(out.shape, seed=7)).sum()
    names = ["input", *dict(module.named_parameters())]
    grads = dict(zip(names, torch.autograd.grad(loss, [x, *module.parameters()]), strict=True))
    assert grads.keys() == case["grads"].keys()
    compare([grads[name] for name in case["grads"]], case["grads"].values())


@both_forms
@pytest.mark.parametrize("size", [(6, 9), (3, 3)], ids=str)
def test_routing_to_all_regions_is_full_attention(form, size):
    module = build_exact(form, 6, 3, 3, 9)
    for p in module.lepe.parameters():
        torch.nn.init.zeros_(p)
    inputs = [make_map(2, 6, *size), *module.parameters()]
    project = module.qkv["qkv"] if form is BiLevelRoutingAttention else module.qkv_linear
    output = module.wo if form is BiLevelRoutingAttention else module.output_linear

    def full(x, *_):
        tokens = x.flatten(2).transpose(1, 2)
        qkv = F.linear(tokens, project.weight.flatten(1), project.bias)
        q, k, v = (y.unflatten(2, (3, 2)).transpose(1, 2) for y in qkv.chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v, scale=6**-0.5).transpose(1, 2).flatten(2)
        out = F.linear(out, output.weight.flatten(1), output.bias)
        return out.transpose(1, 2).unflatten(2, size)

    # the convolution's own gradients are no business of full attention
    inputs = [x for x in inputs if all(x is not p for p in module.lepe.parameters())]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, output_and_gradients(full, inputs), **EXACT)


def test_both_forms_are_equal_where_regions_tile_the_map():
    linear = build_exact(BiLevelRoutingAttention, 8, 2, 3, 2)
    pointwise = BiLevelRoutingAttention2d(8, 2, 3, 2).double()
    shapes = [entry.shape for entry in pointwise.state_dict().values()]
    entries = zip(pointwise.state_dict(), linear.state_dict().values(), shapes, strict=True)
    pointwise.load_state_dict({name: entry.view(shape) for name, entry, shape in entries})
    x = make_map(2, 8, 6, 9)
    torch.testing.assert_close(pointwise(x), linear(x), **EXACT)


@devices
@backends
def test_a_named_backend_runs_and_no_other(monkeypatch, backend, device):
    x = make_map(1, 8, 7, 5, device=device)
    expected = build_exact(BiLevelRoutingAttention, 8, 2, 3, 2).to(device)(x)
    for name in api.BACKENDS.keys() - {backend}:
        monkeypatch.setitem(api.BACKENDS, name, None)  # raises when it is called
    named = build_exact(BiLevelRoutingAttention, 8, 2, 3, 2, attn_backend=backend).to(device)
    torch.testing.assert_close(named(x), expected, **EXACT)


@devices
@both_forms
# in the second, two of three rows and columns of regions have pixels
@pytest.mark.parametrize("size", [(7, 8), (4, 4)], ids=str)
def test_it_trains_under_autocast(monkeypatch, form, size, device):
    module = fill_(form(16, 2, 3, 2)).to(device)
    x = torch.randn(2, 16, *size, device=device, requires_grad=True)
    dtypes = set()

    def attend(query, key, value, *args, **kwargs):
        dtypes.update((query.dtype, key.dtype, value.dtype))
        return api.routed_attention(query, key, value, *args, **kwargs)

    monkeypatch.setattr(biformer, "routed_attention", attend)
    with torch.autocast(device, torch.bfloat16):
        out = module(x)
        out.float().square().sum().backward()
    assert dtypes == {out.dtype} == {torch.bfloat16}
    assert x.grad.isfinite().all()
    assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in module.parameters())


@both_forms
def test_the_backward_pass_takes_the_routes_of_the_forward_pass(monkeypatch, form):
    calls = []

    def route_otherwise(*args):
        calls.append(args)
        # other routes than those before
        return route_regions(*args).add(len(calls)) % 9

    route_regions = biformer.route_regions
    module, x = build_exact(form, 8, 2, 3, 2), make_map(1, 8, 7, 8)
    monkeypatch.setattr(biformer, "route_regions", route_otherwise)
    out = module(x)
    (grad,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(out.sum(), x)
    assert len(calls) == 1
    # with the same shifted routes, by the definition, which computes nothing again
    module.attn_backend = "reference"
    calls.clear()
    expected = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close([grad, again], [*expected] * 2, **EXACT)


@both_forms
def test_it_compiles_into_one_graph(monkeypatch, form):
    monkeypatch.setattr(chunked, "MIN_WORKSPACE_ON_CPU", 1)  # several chunks
    torch.compiler.reset()
    module = build_exact(form, 8, 2, 3, 2)
    inputs = [make_map(1, 8, 7, 8), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@both_forms
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (13, 17), (32, 33)], ids=str)
def test_maps_of_any_size_are_taken(form, size):
    module = build_exact(form, 8, 2, 16, 16)
    x = make_map(2, 8, *size)
    out = module(x)
    assert out.shape == x.shape
    assert out.isfinite().all()
    torch.testing.assert_close(module(x[:1]), out[:1])


@both_forms
def test_an_empty_batch_stays_empty(form):
    assert form(8, 2, 2, 2)(torch.randn(0, 8, 5, 6)).shape == (0, 8, 5, 6)


@both_forms
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_heads=3), "num_heads=3, embed_dims=8"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(num_windows=0), "num_windows=0"),
        (dict(topk=0), r"from 1 to num_windows² = 4, got topk=0"),
        (dict(topk=5), r"from 1 to num_windows² = 4, got topk=5"),
        (dict(lepe_kernel_size=4), "lepe_kernel_size=4"),
        (dict(lepe_kernel_size=0), "lepe_kernel_size=0"),
        (dict(attn_backend="fastest"), "backend.*'fastest'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_at_construction(form, settings, message):
    with pytest.raises(ValueError, match=message):
        form(**{**dict(embed_dims=8, num_heads=2, num_windows=2, topk=2), **settings})

"""Laws of the module of efficient additive attention: its formulas, and what changes nothing."""

import pytest
import torch
from golden.fill import compare, fill_, make_input
from helpers import devices, golden_files, output_and_gradients

from hybrid_backbones.ops.swiftformer import EfficientAdditiveAttention, unit_vectors

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)
each_form = pytest.mark.parametrize("first_release", [False, True], ids=["current", "first"])
half_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)

golden_cases = pytest.mark.parametrize(
    ("first_release", "case"),
    [
        pytest.param("first_release" in stem, case, id=f"{stem}-{i}")
        for stem, golden in golden_files("efficient_additive_attention*op.json")
        for i, case in enumerate(golden["cases"])
    ],
)


def build_published(arguments, first_release):
    """Build the operator from the arguments of the published constructor."""
    dims = (arguments[key] for key in ("in_dims", "token_dim", "num_heads"))
    return EfficientAdditiveAttention(*dims, first_release=first_release)


def build_exact(*args, device="cpu", **kwargs):
    """Build the operator in float64 with no two equal weights."""
    return fill_(EfficientAdditiveAttention(*args, **kwargs)).to(device).double()


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def attention_by_token(module, x):
    """Compute the published formulas, one image and one token after another."""
    weights = dict(module.named_parameters())

    def linear(name, vector):
        return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]

    def unit(vector):
        return vector / vector.square().sum().sqrt()

    def image(tokens):
        queries = [unit(linear("to_query", token)) for token in tokens]
        keys = [unit(linear("to_key", token)) for token in tokens]
        width = len(weights["w_g"])
        scores = [query @ weights["w_g"][:, 0] * width**-0.5 for query in queries]
        length = sum(score**2 for score in scores) ** 0.5
        shares = [score / length for score in scores]
        if module.first_release:
            shares = [score.unsqueeze(0).softmax(0)[0] for score in scores]
        global_query = sum(share * query for share, query in zip(shares, queries, strict=True))
        pairs = zip(queries, keys, strict=True)
        return [linear("final", linear("Proj", global_query * k) + q) for q, k in pairs]

    batch = [torch.stack(image(tokens.unbind(1)), 1) for tokens in x.flatten(2)]
    return torch.stack(batch).unflatten(2, x.shape[2:])


@each_form
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        pytest.param((5, 7), dict(), id="default"),
        pytest.param((1, 1), dict(), id="one token"),
        pytest.param((1, 6), dict(), id="one row"),
        pytest.param((4, 3), dict(token_dims=4), id="fewer channels"),
        pytest.param((3, 5), dict(token_dims=3, num_heads=3), id="three heads"),
    ],
)
def test_it_computes_the_published_formulas(size, settings, first_release):
    module = build_exact(6, first_release=first_release, **settings)
    inputs = [make_map(2, 6, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: attention_by_token(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@golden_cases
def test_outputs_and_gradients_are_the_published_ones(first_release, case):
    module = fill_(build_published(case["arguments"], first_release))
    x = make_input(case["shape"], case["seed"]).requires_grad_()  # (B, N, C)
    out = module(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
    compare([out], case["features"])
    names = ["input", *dict(module.named_parameters())]
    loss = (out * make_input(out.shape, seed=7)).sum()
    grads = dict(zip(names, torch.autograd.grad(loss, [x, *module.parameters()]), strict=True))
    assert grads.keys() == case["grads"].keys()
    if first_release:
        assert not any(case["grads"]["w_g"]["values"])
        assert not grads.pop("w_g").any()
    compare(grads.values(), [case["grads"][name] for name in grads])


@golden_cases
def test_entries_are_the_published_ones(first_release, case):
    module = build_published(case["arguments"], first_release)
    own = [[name, list(x.shape), "float32"] for name, x in module.state_dict().items()]
    assert own == case["entries"]
    assert sum(p.numel() for p in module.parameters()) == case["parameters"]


@each_form
def test_gradients_are_those_of_finite_differences(first_release):
    module = build_exact(3, first_release=first_release)
    x = make_map(2, 3, 2, 2)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), [x, *module.parameters()])


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_length_of_the_weight_changes_nothing(factor, dtype):
    # also where the length of all scores together is more than half precision holds
    module = build_exact(16)
    torch.nn.init.ones_(module.w_g)
    x = make_map(1, 16, 100, 100)
    expected = module(x)
    module.w_g.data *= factor
    actual = module.to(dtype)(x.to(dtype))
    assert relative_error(actual.double(), expected) < max(STEPS * torch.finfo(dtype).eps, 1e-12)


def test_in_the_first_release_the_weight_has_no_effect_and_a_gradient_of_zero():
    module, x = build_exact(6, first_release=True), make_map(2, 6, 3, 5)
    before = module(x)
    assert not torch.autograd.grad(before.square().sum(), module.w_g)[0].any()
    torch.nn.init.normal_(module.w_g)
    assert torch.equal(module(x), before)


def test_in_the_current_form_the_weight_counts():
    module, x = build_exact(6), make_map(2, 6, 3, 5)
    before = module(x)
    assert torch.autograd.grad(before.square().sum(), module.w_g)[0].all()
    torch.nn.init.normal_(module.w_g)
    assert not torch.allclose(module(x), before)


@each_form
def test_positions_may_be_permuted(first_release):
    module, x = build_exact(6, first_release=first_release), make_map(2, 6, 4, 5)
    order = torch.randperm(20)

    def permute(x):
        return x.flatten(2)[..., order].unflatten(2, (4, 5))

    torch.testing.assert_close(module(permute(x)), permute(module(x)), **EXACT)


@each_form
def test_only_the_number_of_positions_counts_not_their_arrangement(first_release):
    module, x = build_exact(6, first_release=first_release), make_map(2, 6, 4, 6)
    torch.testing.assert_close(
        module(x.reshape(2, 6, 3, 8)), module(x).reshape(2, 6, 3, 8), **EXACT
    )


@each_form
def test_images_of_a_batch_do_not_meet(first_release):
    module, x = build_exact(6, first_release=first_release), make_map(3, 6, 4, 5)
    singles = [module(image) for image in x.split(1)]
    torch.testing.assert_close(module(x), torch.cat(singles), **EXACT)


def test_a_constant_map_gives_a_constant_map():
    module = build_exact(6)
    pixel = make_map(1, 6, 1, 1)
    query, key = (
        unit_vectors(layer(pixel.flatten(1)), 1) for layer in (module.to_query, module.to_key)
    )
    global_query = (query @ module.w_g).sign() * 35**0.5 * query
    expected = module.final(module.Proj(global_query * key) + query)[..., None, None]
    torch.testing.assert_close(
        module(pixel.expand(-1, -1, 5, 7)), expected.expand(-1, -1, 5, 7), **EXACT
    )


@each_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_tokens_without_length_give_the_bias(first_release, dtype):
    module = EfficientAdditiveAttention(4, first_release=first_release).to(dtype)
    torch.nn.init.zeros_(module.to_query.bias)
    torch.nn.init.zeros_(module.to_key.bias)
    out = module(torch.zeros(1, 4, 3, 3, dtype=dtype))
    expected = module.final(module.Proj.bias)[:, None, None]
    torch.testing.assert_close(out, expected.expand_as(out))


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


# of a dozen independent roundings, each of half a step
STEPS = 2


@devices
@each_form
@half_dtypes
def test_a_half_precision_module_is_close_to_the_exact_one(dtype, first_release, device):
    exact = build_exact(16, first_release=first_release, device=device)
    x = torch.randn(2, 16, 17, 13, device=device, dtype=dtype, requires_grad=True)
    expected = exact(x.detach().double())
    module = build_exact(16, first_release=first_release, device=device).to(dtype)
    actual, *grads = output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])
    assert actual.dtype == dtype
    assert all(grad.isfinite().all() for grad in grads)
    assert relative_error(actual.double(), expected) < STEPS * torch.finfo(dtype).eps


@devices
@each_form
@half_dtypes
def test_autocast_is_close_to_the_exact_module(dtype, first_release, device):
    module = build_exact(16, first_release=first_release, device=device).float()
    x = torch.randn(2, 16, 67, 61, device=device)
    with torch.autocast(device, dtype):
        out = module(x)
    assert out.dtype == dtype
    assert relative_error(out.float(), module(x)) < STEPS * torch.finfo(dtype).eps
    out.float().square().mean().backward()
    assert all(p.grad.dtype == p.dtype for p in module.parameters())
    assert all(p.grad.isfinite().all() for p in module.parameters())


@each_form
def test_it_compiles_into_one_graph(first_release):
    torch.compiler.reset()
    module = build_exact(6, first_release=first_release)
    inputs = [make_map(2, 6, 5, 7), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(embed_dims=0), "embed_dims=0"),
        (dict(embed_dims=8, token_dims=0), "token_dims=0"),
        (dict(embed_dims=8, num_heads=0), "num_heads=0"),
        (dict(embed_dims=8, num_heads=-1), "num_heads=-1"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        EfficientAdditiveAttention(**settings)

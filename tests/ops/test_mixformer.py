"""Laws of mixing attention: its formulas, its padding, its entries."""

import math

import pytest
import torch
from golden.fill import fill_, make_input
from helpers import devices, golden_files, output_and_gradients, published_weights
from torch import nn

from hybrid_backbones.ops import shifted_window_attention
from hybrid_backbones.ops.mixformer import (
    AnyBatchNorm2d,
    MixingAttention,
    channel_gated_attention,
    position_gated_map,
)

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)

each_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def build_exact(*args, device="cpu", **kwargs):
    """Build the operator in float64 with no two equal weights."""
    return fill_(MixingAttention(*args, **kwargs)).to(device).double()


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def mix_by_position(module, x):
    """Compute the published formulas at one position after another.

    The map is completed by zeros, which then are positions like all others.
    """
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    batch, channels, height, width = x.shape
    side, num_heads = module.window_size, module.relative_position_bias_table.shape[1]
    rows, columns = (side * math.ceil(length / side) for length in (height, width))
    tokens = x.new_zeros(batch, rows, columns, channels)
    tokens[:, :height, :width] = x.permute(0, 2, 3, 1)

    def linear(name, t):
        return t @ weights[f"{name}.weight"].flatten(1).T + weights[f"{name}.bias"]

    def scale(name, t, mean, variance):
        normalised = (t - mean) / (variance + 1e-5).sqrt()
        return normalised * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def layer_norm(name, t):
        return scale(name, t, t.mean(-1, True), t.var(-1, unbiased=False, keepdim=True))

    def batch_norm(name, t):
        if module.training:
            values = t.flatten(0, -2)
            return scale(name, t, values.mean(0), values.var(0, unbiased=False))
        return scale(name, t, weights[f"{name}.running_mean"], weights[f"{name}.running_var"])

    def gelu(t):
        return t * (1 + torch.erf(t / math.sqrt(2))) / 2

    def interaction(name, t):
        hidden = gelu(batch_norm(f"{name}.1", linear(f"{name}.0", t)))
        return torch.sigmoid(linear(f"{name}.3", hidden))

    def convolve(t, y, x):
        kernels = weights["dwconv3x3.0.weight"][:, 0]  # (C, K, K)
        total, radius = weights["dwconv3x3.0.bias"], kernels.shape[-1] // 2
        for i in range(rows):
            for j in range(columns):
                if abs(i - y) <= radius and abs(j - x) <= radius:
                    total = total + kernels[:, i - y + radius, j - x + radius] * t[:, i, j]
        return total

    def attend(query, key, value, y, x):
        logits, values = [], []
        for i in range(rows):
            for j in range(columns):
                if i // side == y // side and j // side == x // side:
                    offset = (y - i + side - 1) * (2 * side - 1) + (x - j + side - 1)
                    bias = weights["relative_position_bias_table"][offset]
                    product = (query[:, y, x] * key[:, i, j]).unflatten(1, (num_heads, -1)).sum(2)
                    head_dims = channels // 2 // num_heads
                    logits.append(product / math.sqrt(head_dims) + bias)  # (B, h)
                    values.append(value[:, i, j].unflatten(1, (num_heads, -1)))
        return (torch.stack(logits).softmax(0)[..., None] * torch.stack(values)).sum(0).flatten(1)

    def at_each_position(function, *args):
        lines = [
            torch.stack([function(*args, y, x) for x in range(columns)], 1) for y in range(rows)
        ]
        return torch.stack(lines, 1)

    # 2. two projections with norms, 3. and 5. the convolution branch
    attended = layer_norm("proj_attn_norm", linear("proj_attn", tokens))
    local = layer_norm("proj_cnn_norm", linear("proj_cnn", tokens))
    local = gelu(batch_norm("dwconv3x3.1", at_each_position(convolve, local)))
    # 4. and 6. its mean gates the values
    gate = interaction("channel_interaction", local.mean((1, 2), True))
    query, key, value = linear("qkv", attended).chunk(3, -1)
    attended = at_each_position(attend, query, key, value * gate)
    # 7. the attention gates positions, 8. both halves
    local = linear("projection", local) * interaction("spatial_interaction", attended)
    halves = [layer_norm("attn_norm", attended), batch_norm("conv_norm", local)]
    return linear("proj", torch.cat(halves, -1))[:, :height, :width].permute(0, 3, 1, 2)


@each_mode
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        pytest.param((6, 3), dict(window_size=3), id="whole windows"),
        pytest.param((5, 4), dict(window_size=3), id="odd sizes"),
        pytest.param((2, 7), dict(window_size=4), id="less than a window high"),
        pytest.param((1, 1), dict(window_size=2), id="one position"),
        pytest.param((3, 4), dict(window_size=1), id="windows of one position"),
        pytest.param((4, 5), dict(window_size=3, kernel_size=5), id="kernel 5"),
        pytest.param((4, 5), dict(window_size=3, kernel_size=1), id="kernel 1"),
        pytest.param((3, 4), dict(num_heads=1), id="one head, window 7"),
        pytest.param((3, 4), dict(num_heads=8, window_size=2), id="heads of one channel"),
    ],
)
def test_it_computes_the_published_formulas(size, settings, training):
    module = build_exact(16, **{"num_heads": 2, **settings})
    module.train(training)
    inputs = [make_map(2, 16, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: mix_by_position(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("stem", ["mixformer_b0", "mixformer_b4"])
def test_entries_are_the_published_ones(stem):
    ((_, golden),) = golden_files(f"{stem}.json")
    arguments = golden["arguments"]
    weights = published_weights(golden)
    for i in range(4):
        prefix = f"layers.{i}.blocks.0.attn."
        entries = {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}
        module = MixingAttention(arguments["embed_dim"] * 2**i, arguments["num_heads"][i])
        index = entries.pop("relative_position_index")
        assert module.relative_position_index.shape == index.shape
        module.load_state_dict(entries)


def test_normalisation_is_the_published_one():
    module = MixingAttention(16, 2)
    eps = {name: m.eps for name, m in module.named_modules() if hasattr(m, "eps")}
    assert len(eps) == 7
    assert set(eps.values()) == {1e-5}
    momenta = [m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert momenta == [0.1] * 4


def test_open_gates_leave_attention_and_map_as_they_are():
    query, key, value = torch.randn(3, 2, 8, 4, 6).unbind()
    bias = torch.randn(2, 4, 4)
    gate = torch.full((2, 8, 1, 1), math.inf)
    out = channel_gated_attention(query, key, value, gate, bias, 2)
    expected = shifted_window_attention(query, key, value, bias, 2)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(position_gated_map(value, gate[:, :1]), value)
    torch.testing.assert_close(position_gated_map(value, -gate[:, :1]), torch.zeros_like(value))


def test_a_row_of_a_batch_is_the_single_map():
    module = build_exact(16, 2).eval()
    x = make_map(3, 16, 9, 8)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), **EXACT)


def test_only_the_convolution_crosses_windows():
    module = build_exact(16, 2, 3).eval()
    x = make_map(1, 16, 6, 6)
    with torch.no_grad():
        # the gate of the channels knows of the whole map
        module.channel_interaction[3].weight.zero_()

    def reach(y, x_):
        (grad,) = torch.autograd.grad(module(x)[0, :, y, x_].sum(), x)
        return grad[0].abs().sum(0) > 1e-12

    window = torch.zeros(6, 6, dtype=torch.bool)
    window[:3, :3] = True
    neighbours = torch.zeros(6, 6, dtype=torch.bool)
    neighbours[1:4, 1:4] = True
    assert torch.equal(reach(2, 2), window | neighbours)


@each_mode
def test_gradients_are_those_of_finite_differences(training):
    module = build_exact(16, 2, 2).train(training)
    x = make_map(2, 16, 3, 3)
    assert torch.autograd.gradcheck(
        lambda x, *_: module(x), [x, *module.parameters()], fast_mode=True
    )


def test_one_value_a_channel_is_normalised_by_running_statistics():
    norm = fill_(AnyBatchNorm2d(4))
    before = {name: x.clone() for name, x in norm.state_dict().items()}
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    out = norm.train()(x)
    torch.testing.assert_close(out, norm.eval()(x))
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    out.sum().backward()
    assert torch.equal(norm.bias.grad, torch.ones(4))
    assert norm.weight.grad.all()


@each_mode
@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (3, 4, 5, 6)], ids=str)
def test_more_values_are_normalised_by_those_of_the_batch(shape, training):
    norm, expected = fill_(AnyBatchNorm2d(4)), fill_(nn.BatchNorm2d(4))
    x = torch.randn(shape)
    torch.testing.assert_close(norm.train(training)(x), expected.train(training)(x))
    torch.testing.assert_close(norm.state_dict(), expected.state_dict())


@devices
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 7)], ids=str)
def test_a_single_map_of_any_size_trains(size, device):
    module = build_exact(16, 2, device=device).train()
    out, *grads = output_and_gradients(
        lambda x, *_: module(x), [make_map(1, 16, *size, device=device), *module.parameters()]
    )
    assert out.shape == (1, 16, *size)
    assert all(x.isfinite().all() for x in (out, *grads))


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


# of some dozen independent roundings, each of half a step
STEPS = 6


@devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_module_is_close_to_the_exact_one(dtype, device):
    exact = build_exact(32, 2, device=device)
    x = make_input((2, 32, 9, 13)).to(device, dtype).requires_grad_()
    expected = exact(x.detach().double())
    module = build_exact(32, 2, device=device).to(dtype)
    out, *grads = output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])
    assert out.dtype == dtype
    assert all(grad.isfinite().all() for grad in grads)
    assert relative_error(out, expected) < STEPS * torch.finfo(dtype).eps


@devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_is_close_to_the_exact_module(dtype, device):
    module = build_exact(32, 2, device=device).float()
    x = make_input((2, 32, 9, 13)).to(device)
    expected = module(x)
    with torch.autocast(device, dtype):
        out = module(x)
    assert relative_error(out, expected) < STEPS * torch.finfo(dtype).eps
    out.float().square().sum().backward()
    assert all(p.grad.dtype == p.dtype for p in module.parameters())
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("size", [(7, 14), (9, 10)], ids=["windows fit", "odd sizes"])
def test_it_compiles_into_one_graph(size):
    torch.compiler.reset()
    module = build_exact(16, 2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    inputs = [make_map(2, 16, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(embed_dims=14), "embed_dims=14"),
        (dict(embed_dims=17), "embed_dims=17"),
        (dict(num_heads=3), "num_heads=3, embed_dims=16"),
        (dict(num_heads=16), "num_heads=16, embed_dims=16"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(num_heads=-2), "num_heads=-2"),
        (dict(window_size=0), "window_size=0"),
        (dict(kernel_size=2), "kernel_size=2"),
        (dict(kernel_size=-1), "kernel_size=-1"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MixingAttention(**{"embed_dims": 16, "num_heads": 2, **settings})

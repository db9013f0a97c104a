"""Laws of ACmix in shifted windows: its formulas, its borders, its entries."""

import pytest
import torch
import torch.nn.functional as F
from golden.fill import fill_
from helpers import devices, golden_files, output_and_gradients

from hybrid_backbones.ops.acmix import acmix_convolution
from hybrid_backbones.ops.acmix_swin import ACmixWindow

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)

each_size = pytest.mark.parametrize(
    "size", [(6, 9), (7, 8), (4, 13), (3, 7), (2, 2), (1, 5), (1, 1)], ids=str
)
each_shift = pytest.mark.parametrize("shift", [0, 1, 2])


def build_exact(*args, device="cpu", **kwargs):
    """Build the operator in float64 with no two equal weights."""
    return fill_(ACmixWindow(*args, **kwargs)).to(device).double()


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def acmix_by_index(module, x):
    """Compute the published formulas at one position after another.

    Windows tile the plane from row and column `shift`; no position exists outside of the map.
    """
    weights = dict(module.named_parameters())
    height, width = x.shape[2:]
    num_heads, window = module.num_heads, module.window_size
    shift = module.shift if min(height, width) > window else 0
    positions = [(row, col) for row in range(height) for col in range(width)]

    qkv = torch.einsum("oi,bihw->bohw", weights["qkv.weight"], x)
    qkv = qkv + weights["qkv.bias"][:, None, None]
    query, key, value = qkv.unflatten(1, (3, num_heads, -1)).unbind(1)  # (B, h, d, H, W)
    mixed = torch.einsum(
        "th,bhdyx->btdyx", weights["fc.weight"].flatten(1), torch.cat([query, key, value], 1)
    )
    mixed = mixed + weights["fc.bias"][:, None, None, None]
    mixed = mixed.repeat_interleave(num_heads, 2)  # output channel c takes channel c // n

    def attend(row, col):
        logits, values = [], []
        for other_row, other_col in positions:
            same_rows = (row - shift) // window == (other_row - shift) // window
            if same_rows and (col - shift) // window == (other_col - shift) // window:
                down, right = row - other_row + window - 1, col - other_col + window - 1
                bias = weights["relative_position_bias_table"][down * (2 * window - 1) + right]
                logit = (query[..., row, col] * key[..., other_row, other_col]).sum(2)
                logits.append(logit * query.shape[2] ** -0.5 + bias)
                values.append(value[..., other_row, other_col])
        out = (torch.stack(logits).softmax(0)[..., None] * torch.stack(values)).sum(0).flatten(1)
        return out @ weights["proj.weight"].T + weights["proj.bias"]

    def convolve(row, col):
        total = 0
        for i in range(3):
            for j in range(3):
                # the taps step in the rolled map, whose first row is row `shift`
                rolled = (row - shift) % height + i - 1, (col - shift) % width + j - 1
                if 0 <= rolled[0] < height and 0 <= rolled[1] < width:
                    place = (rolled[0] + shift) % height, (rolled[1] + shift) % width
                    kernels = weights["dep_conv.weight"][:, :, i, j]
                    total = total + torch.einsum(
                        "ct,btc->bc", kernels, mixed[..., place[0], place[1]]
                    )
        return total

    outs = [weights["rate1"] * attend(*p) + weights["rate2"] * convolve(*p) for p in positions]
    return torch.stack(outs, 2).unflatten(2, (height, width))


@each_size
@each_shift
def test_it_computes_the_published_formulas(size, shift):
    module = build_exact(6, 3, window_size=3, shift=shift)
    inputs = [make_map(2, 6, *size), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: acmix_by_index(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    "settings",
    [
        dict(window_size=7, shift=3),
        dict(window_size=4, shift=2),
        dict(window_size=2, shift=1),
        dict(window_size=1),
        dict(num_heads=1, window_size=5, shift=2),
        dict(num_heads=8, window_size=5, shift=2),
    ],
    ids=str,
)
def test_it_computes_the_published_formulas_for_other_settings(settings):
    module = build_exact(8, **{"num_heads": 2, **settings})
    inputs = [make_map(1, 8, 8, 11), *module.parameters()]
    actual = output_and_gradients(lambda x, *_: module(x), inputs)
    expected = output_and_gradients(lambda x, *_: acmix_by_index(module, x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    "settings", [dict(), dict(stride=2), dict(dilation=2), dict(stride=3, dilation=2)], ids=str
)
def test_the_bias_of_the_mixing_ends_at_the_borders(settings):
    num_heads = 2
    query, key, value = (make_map(2, 8, 6, 7) for _ in range(3))
    mixing, bias, kernels = make_map(9, 6), make_map(9), make_map(8, 9, 3, 3)

    def mix_then_convolve(query, key, value, mixing, bias, kernels):
        heads = torch.cat([query, key, value], 1).unflatten(1, (6, 4))
        maps = torch.einsum("th,bhdyx->bdtyx", mixing, heads) + bias[:, None, None]
        padding = settings.get("dilation", 1)
        return F.conv2d(maps.flatten(1, 2), kernels, groups=4, padding=padding, **settings)

    def composed(query, key, value, mixing, bias, kernels):
        qkv = torch.cat([query, key, value], 1)
        return acmix_convolution(qkv, mixing, kernels, num_heads, mixing_bias=bias, **settings)

    inputs = [query, key, value, mixing, bias, kernels]
    actual = output_and_gradients(composed, inputs)
    torch.testing.assert_close(actual, output_and_gradients(mix_then_convolve, inputs), **EXACT)


def test_entries_are_the_published_ones():
    (_, golden), *_ = golden_files("acmix_swin_tiny.json")
    prefix = "layers.1.blocks.1.attn."
    published = {
        name.removeprefix(prefix): shape
        for name, shape, _ in golden["entries"]
        if name.startswith(prefix)
    }
    del published["relative_position_index"]
    module = ACmixWindow(192, 6, 7, 3)
    assert {name: list(x.shape) for name, x in module.state_dict().items()} == published


def test_kernels_begin_as_shifts_and_rates_as_one_half():
    module = ACmixWindow(8, 2)
    shifts = torch.eye(9).view(9, 3, 3).expand(8, 9, 3, 3)
    assert torch.equal(module.dep_conv.weight, shifts)
    assert module.rate1.tolist() == module.rate2.tolist() == [0.5]
    table = ACmixWindow(64, 32).relative_position_bias_table
    assert table.shape == (169, 32)
    assert 0.018 < table.std() < 0.022


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


# of a dozen independent roundings, each of half a step
STEPS = 2


@devices
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_module_is_close_to_the_exact_one(shift, dtype, device):
    exact = build_exact(16, 4, shift=shift, device=device)
    x = torch.randn(2, 16, 17, 13, device=device, dtype=dtype, requires_grad=True)
    module = build_exact(16, 4, shift=shift, device=device).to(dtype)
    actual, *grads = output_and_gradients(lambda x, *_: module(x), [x, *module.parameters()])
    assert actual.dtype == dtype
    assert all(grad.isfinite().all() for grad in grads)
    expected = exact(x.detach().double())
    assert relative_error(actual.double(), expected) < STEPS * torch.finfo(dtype).eps


@devices
def test_autocast_is_close_to_the_exact_module(device):
    module = build_exact(16, 4, shift=3, device=device).float()
    x = torch.randn(2, 16, 17, 13, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), module(x)) < STEPS * torch.finfo(torch.bfloat16).eps
    out.float().square().sum().backward()
    assert all(p.grad.dtype == p.dtype for p in module.parameters())
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=str)
def test_it_compiles_into_one_graph(size):
    torch.compiler.reset()
    module = build_exact(8, 2, window_size=2, shift=1)
    inputs = [make_map(1, 8, *size), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(lambda x, *_: compiled(x), inputs)
    expected = output_and_gradients(lambda x, *_: module(x), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_heads=3), "num_heads=3, embed_dims=8"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(window_size=0), "window_size=0"),
        (dict(window_size=4, shift=4), "window_size=4 .*shift=4"),
        (dict(shift=-1), "shift=-1"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        ACmixWindow(8, **{"num_heads": 2, **settings})

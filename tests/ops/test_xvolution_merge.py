"""Laws of merging X-volution: one dynamic convolution computes what its branches do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import devices, output_and_gradients
from pixel_shift_attention_cases import EXACT, SETTINGS, attention_by_unfolding, make_map, unfold
from torch import nn
from xvolution_cases import each_operator, make_operator

from hybrid_backbones.ops import MergedXVolution, XVolution
from hybrid_backbones.ops.xvolution import merge_xvolutions


def dynamic_kernel(module, x, settings):
    """Write out the merged kernel ``(B, C, in, K², H', W')`` and the bias, from the weights."""
    stride = settings.get("stride", 1)
    query, key, value = module.query.weight, module.key.weight, module.value.weight[..., 0, 0]
    maps = F.conv2d(x, query)[..., ::stride, ::stride], F.conv2d(x, key), F.conv2d(x, key)
    _, weights = attention_by_unfolding(*maps, **settings)  # (B, h, K², H', W')
    weights = weights.repeat_interleave(value.shape[0] // module.num_heads, 1)
    scales, shifts = [], []
    for norm in (module.conv_bn, module.attention_bn):
        scales.append(norm.weight / (norm.running_var + norm.eps).sqrt())
        shifts.append(norm.bias - norm.running_mean * scales[-1])
    static = torch.einsum("o,oit->oit", scales[0], module.conv.weight.flatten(2))
    moving = torch.einsum("o,botyx,oi->boityx", scales[1], weights, value)
    bias = 0 if module.conv.bias is None else scales[0] * module.conv.bias
    return static[..., None, None] + moving, bias + sum(shifts)


@pytest.mark.parametrize(
    ("size", "settings"), [*SETTINGS, pytest.param((5, 7), dict(bias=True), id="bias")]
)
def test_merged_it_is_one_dynamic_convolution(size, settings):
    module, x = make_operator(4, 8, **settings), make_map(2, 4, *size)
    places = {k: v for k, v in settings.items() if k != "bias"}
    kernel, bias = dynamic_kernel(module, x, places)
    expected = torch.einsum("boityx,bityx->boyx", kernel, unfold(x, **places))
    expected = expected + bias[:, None, None]
    torch.testing.assert_close(module(x), expected, **EXACT)
    torch.testing.assert_close(module.merge()(x), expected, **EXACT)


@devices
@each_operator
def test_merged_it_computes_what_its_branches_do(size, settings, device):
    module = make_operator(4, 8, device=device, **settings)
    x = make_map(2, 4, *size, device=device)
    merged = module.merge()
    assert not merged.training
    assert merged.conv.weight.dtype == torch.float64
    actual = output_and_gradients(merged, [x])
    torch.testing.assert_close(actual, output_and_gradients(module, [x]), **EXACT)
    single = module.float().merge()
    error = (single(x.float()) - module(x.float())).abs().max()
    assert error <= 1e-5 * module(x.float()).abs().max()


def test_merging_leaves_the_module_as_it_is_and_shares_nothing():
    module = make_operator(4, 8)
    before = copy.deepcopy(module.state_dict())
    merged = module.merge()
    for parameter in merged.parameters():
        assert parameter.requires_grad
        nn.init.zeros_(parameter)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_the_merged_state_round_trips_and_does_not_fit_the_branches():
    module = make_operator(4, 8, num_heads=2, groups=2)
    merged, x = module.merge(), make_map(1, 4, 5, 6)
    assert set(merged.state_dict()) == {"conv.weight", "conv.bias", "qkv.weight"}
    other = MergedXVolution(4, 8, num_heads=2, groups=2).double()
    other.load_state_dict(merged.state_dict(), strict=True)
    assert torch.equal(other(x), merged(x))
    with pytest.raises(RuntimeError, match="qkv"):
        module.load_state_dict(merged.state_dict(), strict=True)


def test_merging_in_training_mode_raises():
    module = make_operator(4, 8)
    module.conv_bn.train()
    with pytest.raises(ValueError, match=r"evaluation mode.*eval\(\)"):
        module.merge()
    with pytest.raises(ValueError, match="evaluation mode"):
        module.train().merge()


def test_global_attention_cannot_be_merged():
    with pytest.raises(ValueError, match=r"'global' cannot be merged.*softmax"):
        make_operator(4, 8, attention="global").merge()


def test_a_model_is_merged_as_a_whole_or_not_at_all():
    def make(attention):
        inner = make_operator(4, 4, attention=attention)
        return nn.Sequential(make_operator(4, 4), nn.Sequential(nn.ReLU(), inner)).eval()

    model, x = make("shift"), make_map(1, 4, 5, 6)
    expected = model(x)
    assert merge_xvolutions(model) == 2
    assert not any(isinstance(module, XVolution) for module in model.modules())
    torch.testing.assert_close(model(x), expected, **EXACT)
    with pytest.raises(ValueError, match="no X-volution"):
        merge_xvolutions(model)
    with pytest.raises(ValueError, match="cannot replace itself"):
        merge_xvolutions(XVolution(4, 4).eval())
    model = make("global")
    with pytest.raises(ValueError, match="cannot be merged"):
        merge_xvolutions(model)
    assert isinstance(model[0], XVolution)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_merged_it_computes_large_inputs_in_half_precision(dtype):
    module, x = XVolution(16, 16), 100 * torch.randn(2, 16, 9, 7)
    module.conv_bn.momentum = module.attention_bn.momentum = 1
    module(x)  # statistics of attention of the third power
    merged = module.eval().merge()
    expected = copy.deepcopy(module).double()(x.double())
    with torch.autocast("cpu", dtype):
        actual = merged(x)
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < 3 * torch.finfo(dtype).eps  # false for NaN


def test_a_shared_x_volution_is_merged_once_under_all_of_its_names():
    shared = XVolution(4, 4).eval()
    model = nn.ModuleDict(dict(a=shared, b=nn.Sequential(shared)))
    assert merge_xvolutions(model) == 1
    assert model["a"] is model["b"][0]
    assert isinstance(model["a"], MergedXVolution)

"""Laws of X-volution: its formulas, what it keeps in memory, its merge, its place in hosts."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from helpers import devices, output_and_gradients
from mmcv.cnn import build_conv_layer
from mmdet.models.backbones import ResNet as DetResNet
from mmdet.models.backbones import ResNeXt as DetResNeXt
from mmseg.models.backbones import ResNet as SegResNet
from mmseg.models.backbones import ResNeXt as SegResNeXt
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_backbones.ops.pixel_shift_attention import pixel_shift_attention
from hybrid_backbones.ops.pixel_shift_attention.api import BACKENDS
from hybrid_backbones.ops.xvolution import MergedXVolution, XVolution, merge_xvolutions

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_attention = pytest.mark.parametrize("attention", ["shift", "global"])
SETTINGS = [
    pytest.param((7, 9), dict(), id="default"),
    pytest.param((7, 9), dict(num_heads=4), id="four heads"),
    pytest.param((7, 9), dict(num_heads=8), id="heads of one channel"),
    pytest.param((7, 9), dict(stride=2), id="stride 2, odd sizes"),
    pytest.param((6, 8), dict(stride=2, num_heads=2), id="stride 2, even sizes"),
    pytest.param((7, 8), dict(stride=3), id="stride 3"),
    pytest.param((7, 9), dict(dilation=2), id="dilation 2"),
    pytest.param((7, 6), dict(stride=2, dilation=3, num_heads=2), id="stride 2, dilation 3"),
    pytest.param((5, 7), dict(kernel_size=1), id="kernel 1"),
    pytest.param((5, 7), dict(kernel_size=5, stride=2), id="kernel 5"),
    pytest.param((1, 1), dict(), id="one pixel"),
    pytest.param((2, 3), dict(dilation=5, stride=2), id="map below the dilation"),
    pytest.param((1, 5), dict(num_heads=2), id="one row"),
]
each_setting = pytest.mark.parametrize(("size", "settings"), SETTINGS)


def make_map(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def make_maps(size, stride=1, channels=8, **kwargs):
    """Make query, key and value."""
    small = [-(-side // stride) for side in size]
    return [make_map(2, channels, *sides, **kwargs) for sides in (small, size, size)]


def pad(settings):
    """Add the padding that keeps the size."""
    radius = settings.get("kernel_size", 3) // 2
    return dict(settings, padding=settings.get("dilation", 1) * radius)


def make_operator(*channels, device="cpu", **settings):
    """Build an X-volution in float64, in evaluation, with no normalisation that does nothing."""
    module = XVolution(*channels, **pad(settings)).to(device).double()
    for norm in (module.conv_bn, module.attention_bn):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    return module.eval()


def unfold(x, kernel_size=3, stride=1, dilation=1, **_):
    """``(B, C, H, W)`` to ``(B, C, K², H', W')``, by PyTorch's own definition of a convolution."""
    sides = [-(-side // stride) for side in x.shape[2:]]
    padding = dilation * (kernel_size // 2)
    columns = F.unfold(x, kernel_size, dilation, padding, stride)
    return columns.view(*x.shape[:2], kernel_size**2, *sides)


def attention_by_unfolding(query, key, value, num_heads=1, **settings):
    """Return the result and the weights of all offsets, ``(B, h, K², H', W')``."""
    keys, values = unfold(key, **settings), unfold(value, **settings)
    keys, values, query = (x.unflatten(1, (num_heads, -1)) for x in (keys, values, query))
    weights = torch.einsum("bhdyx,bhdtyx->bhtyx", query, keys) / query.shape[2] ** 0.5
    return torch.einsum("bhtyx,bhdtyx->bhdyx", weights, values).flatten(1, 2), weights


@each_backend
@each_setting
def test_pixel_shift_attention_is_the_unfolded_one(size, settings, backend):
    inputs = make_maps(size, settings.get("stride", 1))
    actual = output_and_gradients(
        lambda *maps: pixel_shift_attention(*maps, backend=backend, **settings), inputs
    )
    expected = output_and_gradients(
        lambda *maps: attention_by_unfolding(*maps, **settings)[0], inputs
    )
    torch.testing.assert_close(actual, expected, **EXACT)


@each_backend
def test_one_pixel_after_another_it_is_the_formula(backend):
    query, key, value = make_maps((3, 4), channels=2)
    expected = torch.zeros_like(value)
    for y in range(3):
        for x in range(4):
            for row in range(max(y - 1, 0), min(y + 2, 3)):
                for col in range(max(x - 1, 0), min(x + 2, 4)):
                    weight = (query[..., y, x] * key[..., row, col]).sum(1, keepdim=True) / 2**0.5
                    expected[..., y, x] += weight * value[..., row, col]
    torch.testing.assert_close(
        pixel_shift_attention(query, key, value, backend=backend), expected, **EXACT
    )


@each_backend
@pytest.mark.parametrize(
    "settings", [dict(), dict(stride=2, num_heads=2), dict(dilation=2)], ids=str
)
def test_first_and_second_derivatives_are_right(backend, settings):
    inputs = make_maps((3, 4), settings.get("stride", 1), channels=2)

    def function(*maps):
        return pixel_shift_attention(*maps, backend=backend, **settings)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_it_grows_with_the_third_power_as_nothing_is_normalised():
    maps = make_maps((4, 5))
    doubled = [2 * x for x in maps]
    expected = 8 * pixel_shift_attention(*maps)
    torch.testing.assert_close(pixel_shift_attention(*doubled), expected, **EXACT)


def test_what_lies_outside_of_the_map_is_zero():
    # every pixel is one: the result counts the neighbours inside
    ones = torch.ones(1, 1, 4, 5)
    expected = F.conv2d(ones, torch.ones(1, 1, 3, 3), padding=1)
    torch.testing.assert_close(pixel_shift_attention(ones, ones, ones), expected)


def saved_bytes(backend, side, channels=32):
    """Sum the storages that a backward pass is going to need."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    maps = make_maps((side, side), channels=channels)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pixel_shift_attention(*maps, backend=backend)
    return sum(storage.nbytes() for storage in storages.values())


def test_memory_grows_with_the_number_of_pixels_and_holds_no_shifted_copy():
    for side in (16, 32):
        map_bytes = 8 * 2 * 32 * side**2
        assert saved_bytes("shifted", side) == 3 * map_bytes
        assert saved_bytes("reference", side) > 2 * 9 * map_bytes


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.mark.parametrize("stride", [1, 2])
def test_no_tensor_of_forward_or_backward_is_larger_than_a_padded_map(stride):
    with LargestTensor() as largest:
        maps = make_maps((16, 16), stride)
        pixel_shift_attention(*maps, stride=stride).sum().backward()
    assert largest.numel == 2 * 8 * 18 * 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kernel_size=2), "kernel_size=2"),
        (dict(kernel_size=-1), "kernel_size=-1"),
        (dict(stride=0), "stride=0"),
        (dict(dilation=0), "dilation=0"),
        (dict(num_heads=3), "num_heads=3, channels=8"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(backend="fastest"), "backend.*'fastest'"),
        (dict(key=torch.ones(2, 8, 5, 6)), r"one shape .*\(2, 8, 5, 6\) and \(2, 8, 5, 7\)"),
        (dict(stride=2), r"query .*\(2, 8, 3, 4\).*got \(2, 8, 5, 7\)"),
        (dict(query=torch.ones(2, 8, 5, 7).double()), "one floating dtype.*float64"),
        (dict(query=torch.ones(2, 8, 5, 7, device="meta")), "one device.*meta"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_bad_argument_of_the_function_is_named(changes, message):
    maps = dict.fromkeys(("query", "key", "value"), torch.ones(2, 8, 5, 7))
    with pytest.raises(ValueError, match=message):
        pixel_shift_attention(**{**maps, **changes})


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


OPERATORS = [
    *SETTINGS,
    pytest.param((5, 7), dict(groups=2, num_heads=4, stride=2), id="two groups, four heads"),
    pytest.param((5, 7), dict(groups=4, num_heads=2), id="four groups, two heads"),
    pytest.param((5, 7), dict(bias=True), id="bias"),
]
each_operator = pytest.mark.parametrize(("size", "settings"), OPERATORS)


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
    model = make("global")
    with pytest.raises(ValueError, match="cannot be merged"):
        merge_xvolutions(model)
    assert isinstance(model[0], XVolution)


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


# of a dozen independent roundings, each of half a step
STEPS = 3
half_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@devices
@half_dtypes
@each_backend
@pytest.mark.parametrize("stride", [1, 2])
def test_half_precision_is_close_to_the_exact_attention(stride, backend, dtype, device):
    maps = make_maps((9, 7), stride, channels=64, dtype=dtype, device=device)

    def function(*maps):
        return pixel_shift_attention(*maps, stride=stride, backend=backend)

    actual = output_and_gradients(function, maps)
    expected = output_and_gradients(function, [x.detach().double().requires_grad_() for x in maps])
    assert all(x.dtype == dtype for x in actual)
    for ours, exact in zip(actual, expected, strict=True):
        assert relative_error(ours.double(), exact) < STEPS * torch.finfo(dtype).eps


@devices
def test_sums_beyond_half_precision_do_not_overflow_where_the_result_does_not(device):
    ones = torch.ones(1, 1024, 1, 1, device=device, dtype=torch.float16)
    # 16 · 16 · 1024 is four times what half precision can hold
    out = pixel_shift_attention(16 * ones, 16 * ones, ones / 64)
    assert torch.equal(out, 128 * ones)


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
    if attention == "shift":
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


@pytest.mark.parametrize("operator", [XVolution, MergedXVolution])
def test_mmcv_builds_it_as_a_convolution(operator):
    settings = dict(type=operator.__name__, num_heads=2, attn_backend="reference")
    module = build_conv_layer(settings, 4, 8, kernel_size=3, stride=2, padding=1, bias=False)
    assert isinstance(module, operator)
    assert (module.num_heads, module.attn_backend) == (2, "reference")
    assert module(torch.randn(1, 4, 7, 9)).shape == (1, 8, 4, 5)


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        pytest.param(DetResNet, dict(), id="mmdet-resnet"),
        pytest.param(DetResNet, dict(style="caffe"), id="mmdet-resnet-caffe"),
        pytest.param(DetResNeXt, dict(groups=32, base_width=4), id="mmdet-resnext"),
        pytest.param(SegResNet, dict(), id="mmseg-resnet"),
        pytest.param(
            SegResNet,
            dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
            id="mmseg-resnet-dilated",
        ),
        pytest.param(SegResNeXt, dict(groups=32, base_width=4), id="mmseg-resnext"),
    ],
)
def test_hosts_put_it_into_the_slot_of_deformable_convolution_and_merge(network, settings):
    stages = (False, False, True, False)
    model = network(depth=50, dcn=dict(type="XVolution"), stage_with_dcn=stages, **settings)
    model.init_weights()
    images = torch.randn(2, 3, 65, 97)
    outs = model(images)
    strides = (4, 8, 8, 8) if "dilations" in settings else (4, 8, 16, 32)
    assert [x.shape[2:] for x in outs] == [(-(-65 // s), -(-97 // s)) for s in strides]
    sum(x.mean() for x in outs).backward()
    operators = [module for module in model.modules() if isinstance(module, XVolution)]
    assert len(operators) == 6
    for operator in operators:
        assert all(p.grad.isfinite().all() for p in operator.parameters())
    model.eval()
    with torch.no_grad():
        expected = model(images)
        assert merge_xvolutions(model) == 6
        for ours, theirs in zip(model(images), expected, strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


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

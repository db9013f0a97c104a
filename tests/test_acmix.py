"""Laws of ACmix: its formulas, its initialisation, and that hosts take it for a convolution."""

from pathlib import Path

import mmseg
import pytest
import torch
import torch.nn.functional as F
from golden.fill import compare, fill_, make_input
from helpers import devices, golden_files, mirror, output_and_gradients
from mmcv.cnn import build_conv_layer
from mmdet.models.backbones import ResNet as DetResNet
from mmdet.models.backbones import ResNeXt as DetResNeXt
from mmdet.registry import MODELS as DET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.models.backbones import ResNet as SegResNet
from mmseg.models.backbones import ResNeXt as SegResNeXt
from mmseg.registry import MODELS as SEG_MODELS
from mmseg.structures import SegDataSample

from hybrid_backbones.ops import ACmix
from hybrid_backbones.ops.acmix import position_map
from hybrid_backbones.ops.local_attention.api import BACKENDS

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)
IN_HOST = dict(dcn=dict(type="ACmix"), stage_with_dcn=(False, True, True, True))

golden_operators = golden_files("acmix_op*.json")
golden_cases = pytest.mark.parametrize(
    ("arguments", "case"),
    [
        pytest.param(case.get("arguments", golden.get("arguments")), case, id=f"{stem}-{i}")
        for stem, golden in golden_operators
        for i, case in enumerate(golden["cases"])
    ],
)


def build_published(arguments):
    """Build the operator from the arguments of the published constructor."""
    kernel_size = arguments.get("kernel_conv", 3)
    return ACmix(
        arguments["in_planes"],
        arguments["out_planes"],
        kernel_size,
        arguments.get("stride", 1),
        padding=kernel_size // 2,
        num_heads=arguments.get("head", 4),
        attn_kernel_size=arguments.get("kernel_att", 7),
    )


def build_exact(*args, device="cpu", **kwargs):
    """Build the operator in float64 with no two equal weights."""
    return fill_(ACmix(*args, **kwargs)).to(device).double()


def make_image(*shape, **kwargs):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **kwargs})


def acmix_by_index(module, x):
    """Compute the formulas of the paper at one output pixel after another, as published.

    The position of the query stays in the logits, and the heads are mixed before they are shifted.
    """
    weights = dict(module.named_parameters())
    num_heads, stride, dilation = module.num_heads, module.stride, module.dilation
    height, width = x.shape[2:]
    taps = range(module.dep_conv.weight.shape[-1])
    attn_taps = range(module.attn_kernel_size)

    def project(name, tensor):
        out = torch.einsum("oi,bihw->bohw", weights[f"{name}.weight"].flatten(1), tensor)
        bias = weights.get(f"{name}.bias")
        return out if bias is None else out + bias[:, None, None]

    def coordinate(i, length):
        return -1 + 2 * i / (length - 1) if length > 1 else -1

    # 1. projections, and 2. positions
    query, key, value = (project(f"conv{i}", x).unflatten(1, (num_heads, -1)) for i in (1, 2, 3))
    xs = [[coordinate(j, width) for j in range(width)] for _ in range(height)]
    ys = [[coordinate(i, height) for _ in range(width)] for i in range(height)]
    position = project("conv_p", torch.tensor([[xs, ys]], dtype=x.dtype))[0]  # (d, H, W)
    # 4. the maps that the convolution shifts
    mixing = weights["fc.weight"].flatten(1)
    mixed = torch.einsum("th,bhdyx->btdyx", mixing, torch.cat([query, key, value], 1))
    mixed = mixed.repeat_interleave(num_heads, 2)  # output channel c takes channel c // n

    def attend(y, x):
        logits, values = [], []
        for i in attn_taps:
            for j in attn_taps:
                row = mirror(y + dilation * (i - len(attn_taps) // 2), height)
                col = mirror(x + dilation * (j - len(attn_taps) // 2), width)
                relative = position[:, y, x] - position[:, row, col]
                logit = query[..., y, x] * (key[..., row, col] + relative)
                logits.append(logit.sum(2) * query.shape[2] ** -0.5)
                values.append(value[..., row, col])
        weighted = torch.stack(logits).softmax(0)[..., None] * torch.stack(values)
        return weighted.sum(0).flatten(1)  # (B, C)

    def convolve(y, x):
        total = 0
        for i in taps:
            for j in taps:
                row = y + dilation * (i - len(taps) // 2)
                col = x + dilation * (j - len(taps) // 2)
                if 0 <= row < height and 0 <= col < width:
                    kernels = weights["dep_conv.weight"][:, :, i, j]
                    total = total + torch.einsum("ct,btc->bc", kernels, mixed[..., row, col])
        return total

    def pixel(y, x):
        return weights["rate1"] * attend(y, x) + weights["rate2"] * convolve(y, x)

    columns = range(0, width, stride)
    rows = [torch.stack([pixel(y, x) for x in columns], -1) for y in range(0, height, stride)]
    return torch.stack(rows, -2)


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


def assert_shifts(weight):
    """Check that filter t of each output channel is one at row t // Kc, column t % Kc."""
    _, num_taps, _, side = weight.shape
    expected = torch.zeros(weight.shape)
    for t in range(num_taps):
        expected[:, t, t // side, t % side] = 1
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_kernels_begin_as_shifts_and_rates_as_one_half(kernel_size):
    module = ACmix(8, 8, kernel_size, padding=kernel_size // 2)
    assert_shifts(module.dep_conv.weight)
    assert module.rate1.tolist() == module.rate2.tolist() == [0.5]


@pytest.mark.parametrize("network", [DetResNet, SegResNet], ids=["mmdet", "mmseg"])
def test_kernels_stay_shifts_when_a_host_initialises_its_convolutions(network):
    model = network(depth=50, **IN_HOST)
    before = model.layer4[2].conv2.conv1.weight.clone()
    model.init_weights()
    operators = [m for m in model.modules() if isinstance(m, ACmix)]
    assert len(operators) == 4 + 6 + 3
    # the host was there
    assert not torch.equal(model.layer4[2].conv2.conv1.weight, before)
    for operator in operators:
        assert_shifts(operator.dep_conv.weight)
        assert operator.rate1.tolist() == operator.rate2.tolist() == [0.5]


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


def test_mmcv_builds_it_as_a_convolution():
    settings = dict(type="ACmix", num_heads=2, attn_kernel_size=5)
    module = build_conv_layer(settings, 4, 8, kernel_size=3, stride=2, padding=1, bias=False)
    assert isinstance(module, ACmix)
    assert (module.num_heads, module.attn_kernel_size, module.stride) == (2, 5, 2)
    assert module.conv1.bias is None
    assert module(torch.randn(1, 4, 7, 9)).shape == (1, 8, 4, 5)


def assert_trains(model, losses):
    """Check that a step is finite and reaches every weight of every operator."""
    total = sum(x for name, loss in losses.items() if "loss" in name for x in flat(loss))
    total.backward()
    operators = [m for m in model.modules() if isinstance(m, ACmix)]
    assert len(operators) == 4 + 6 + 3
    assert total.isfinite()
    for operator in operators:
        assert all(p.grad.isfinite().all() for p in operator.parameters())


def flat(loss):
    return loss if isinstance(loss, list) else [loss]


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
def test_hosts_put_it_into_the_slot_of_deformable_convolution(network, settings):
    model = network(depth=50, **IN_HOST, **settings)
    outs = model(torch.randn(1, 3, 65, 97))
    strides = (4, 8, 8, 8) if "dilations" in settings else (4, 8, 16, 32)
    assert [x.shape[2:] for x in outs] == [(-(-65 // s), -(-97 // s)) for s in strides]
    assert_trains(model, dict(loss=sum(x.mean() for x in outs)))


def set_operator(config):
    config.merge_from_dict({f"model.backbone.{key}": value for key, value in IN_HOST.items()})
    return config.model


def test_a_stock_detector_trains_with_it():
    config = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = DET_MODELS.build(set_operator(config)).train()
        shapes = ("img_shape", "pad_shape", "batch_input_shape")
        sample = DetDataSample(metainfo=dict.fromkeys(shapes, (97, 131)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[20.0, 10.0, 90.0, 80.0]]),
            labels=torch.tensor([3]),
            masks=BitmapMasks(torch.ones(1, 97, 131, dtype=torch.uint8).numpy(), 97, 131),
        )
        losses = model(torch.randn(1, 3, 97, 131), [sample], mode="loss")
    assert_trains(model, losses)


def test_a_stock_segmentor_trains_with_it():
    # `mmseg::` does not resolve with every distribution of mmseg
    stock = Path(mmseg.__file__).parent / ".mim/configs"
    config = Config.fromfile(stock / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(SEG_MODELS.build(set_operator(config))).train()
        sample = SegDataSample(metainfo=dict(img_shape=(65, 97)))
        sample.gt_sem_seg = PixelData(data=torch.randint(150, (1, 65, 97)))
        # its heads normalise over the batch
        losses = model(torch.randn(2, 3, 65, 97), [sample, sample], mode="loss")
    assert_trains(model, losses)

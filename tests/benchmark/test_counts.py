"""Laws of what the benchmark counts: memory kept for the backward pass, and operations."""

import json

import pytest
import torch
from helpers import interpreted
from torch import nn
from torchvision.ops import StochasticDepth

from hybrid_backbones.benchmark.counts import count_launches, kept_by_layer, kept_bytes
from hybrid_backbones.benchmark.measure import measure_backbone, measure_operator
from hybrid_backbones.benchmark.settings import Settings
from hybrid_backbones.benchmark.subjects import BACKBONES, OPERATORS
from hybrid_backbones.ops import BiLevelRoutingAttention2d, local_attention, routed_attention
from hybrid_backbones.ops.local_attention import triton as local_kernels
from hybrid_backbones.ops.pixel_shift_attention import pixel_shift_attention
from hybrid_backbones.ops.pixel_shift_attention import triton as shift_kernels
from hybrid_backbones.ops.routed_attention import triton as routed_kernels


def test_kept_memory_counts_each_storage_once_and_no_weights():
    x = torch.randn(6, 10, requires_grad=True)
    layer = nn.Linear(10, 5)
    assert kept_bytes(lambda: layer(x), layer.parameters()) == x.nbytes
    assert kept_bytes(lambda: layer(x)) == x.nbytes + layer.weight.nbytes
    # both factors are x
    assert kept_bytes(lambda: x * x) == x.nbytes
    # the whole storage of a view
    assert kept_bytes(lambda: x[:2] * x[2:4]) == x.nbytes
    assert kept_bytes(lambda: x.sin().exp()) == 2 * x.nbytes
    with torch.no_grad():
        assert kept_bytes(lambda: layer(x)) == 0


def test_a_storage_counts_for_the_innermost_layer_that_saves_it_first():
    x = torch.randn(6, 10, requires_grad=True)
    inner = nn.Sequential(nn.Linear(10, 5), nn.Tanh())
    outer = nn.Sequential(inner, nn.Linear(5, 7), nn.Tanh())
    layers = {"outer": outer, "inner": inner, "outer.1": outer[1]}

    def call():
        return outer(x).sin()

    kept = kept_by_layer(call, layers, outer.parameters())
    # the input of the first layer, and the output of the first tanh, which the second layer
    # saves, too; the output of the second tanh, whose input nothing saves, is the sine's input
    assert kept == {"inner": 4 * 6 * (10 + 5), "outer": 4 * 6 * 7}
    assert sum(kept.values()) == kept_bytes(call, outer.parameters())
    assert kept_by_layer(call, {}, outer.parameters()) == {"others": sum(kept.values())}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in outer.modules())


def test_launches_are_operations_without_views_and_allocations():
    x = torch.randn(4, 6, requires_grad=True)

    def step():
        torch.empty(3)
        (x.sin().view(3, 8)[1] * 2).sum().backward()

    forward = ["sin", "mul", "sum"]
    # the gradient of x is added to what x has
    backward = ["ones_like", "mul", "select_backward", "cos", "mul"]
    x.grad = None
    assert count_launches(lambda: x.sin().view(24).sum()) == 2
    x.grad = torch.zeros_like(x)
    assert count_launches(step) == len([*forward, *backward, "add_"])


def _attend_locally(**kwargs):
    maps = [torch.randn(1, 4, 16, 72, 72, requires_grad=True) for _ in range(3)]
    return maps, lambda: local_attention(*maps, 7, **kwargs)


def _attend_along_routes(**kwargs):
    tokens = [torch.randn(1, 64, 100, 64, requires_grad=True) for _ in range(3)]
    routes = torch.arange(64).view(1, 64, 1)
    return tokens, lambda: routed_attention(*tokens, routes, 2, **kwargs)


def _attend_to_shifts(**kwargs):
    maps = [torch.randn(1, 8, 5, 6, requires_grad=True) for _ in range(3)]
    return maps, lambda: pixel_shift_attention(*maps, **kwargs)


@interpreted
@pytest.mark.parametrize(
    ("kernels", "make"),
    [
        (local_kernels, _attend_locally),
        (routed_kernels, _attend_along_routes),
        (shift_kernels, _attend_to_shifts),
    ],
)
def test_triton_kernels_count_as_often_as_they_are_launched(monkeypatch, kernels, make):
    launched = []
    monkeypatch.setattr(kernels, "launch", lambda kernel, *_, **__: launched.append(kernel))
    inputs, call = make(backend="triton")
    grad = torch.zeros_like(inputs[0])
    torch.autograd.grad(call(), inputs, grad)
    inputs, call = make(backend=None)  # which a GPU runs by kernels
    assert count_launches(lambda: torch.autograd.grad(call(), inputs, grad)) == len(launched) > 1


@pytest.mark.parametrize("operator", ["local", "routed"])
def test_launches_do_not_depend_on_the_threads_of_a_cpu(monkeypatch, operator):
    if operator == "local":
        _, call = _attend_locally(backend="tiled")
    else:
        _, call = _attend_along_routes(backend="chunked")
    counts = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        counts.append(count_launches(lambda: call().sum().backward()))
    assert counts[0] == counts[1] < 200


def test_rows_have_what_can_be_counted():
    settings = Settings((9, 12), threads=1, repeats=1)
    row = measure_operator(OPERATORS["Conv2d"]["3×3"], settings)
    assert row["kept_maps"] == 1
    assert row["kept_mib"] == 64 * 9 * 12 * 4 / 2**20
    # convolution, its gradient, and a gradient of ones
    assert row["launches"] == 3
    row = measure_backbone(lambda: nn.Conv2d(3, 4, 3), "eager", settings)
    assert row["kept_mib"] == 3 * 9 * 12 * 4 / 2**20
    # the same, and the mean with its gradient, a division
    assert row["launches"] == 5


# in maps of the input, with 64 channels and whole maps; more is kept of what the padding adds
KEPT_MAPS = {
    ("local_attention", "tiled"): 4,
    ("ACmix", "tiled"): 7,
    ("MixingAttention", "ours"): 8,
    # the input, the values with their padding, and what the last projection takes
    ("BiLevelRoutingAttention", "chunked"): 2 + 208 / 200,
    # the input and the results of both branches, with the statistics of their channels
    ("XVolution", "shifted"): 3.001,
}


@pytest.mark.parametrize(("operator", "implementation"), KEPT_MAPS, ids="-".join)
def test_operators_keep_few_maps(operator, implementation):
    function, inputs = OPERATORS[operator][implementation](Settings((200, 336), threads=1))
    inputs = [x.requires_grad_() for x in inputs]
    weights = function.parameters() if isinstance(function, nn.Module) else ()
    kept = kept_bytes(lambda: function(*inputs), weights)
    assert kept / inputs[0].nbytes <= KEPT_MAPS[operator, implementation]


def test_the_refactored_routing_keeps_no_regions():
    layer = BiLevelRoutingAttention2d(8, 2, 3, 2)
    x = torch.rand(2, 8, 10, 13, requires_grad=True)
    # the input, its three projections, and what the last projection takes
    assert kept_bytes(lambda: layer(x), layer.parameters()) == 5 * x.nbytes


def _counts(operator, implementation, size):
    """Return what an operator keeps, in bytes, and what a step of it launches."""
    function, inputs = OPERATORS[operator][implementation](Settings(size, threads=1))
    inputs = [x.requires_grad_() for x in inputs]
    weights = list(function.parameters()) if isinstance(function, nn.Module) else []

    def step():
        out = function(*inputs)
        torch.autograd.grad(out, [*inputs, *weights], torch.ones_like(out))

    return kept_bytes(lambda: function(*inputs), weights), count_launches(step)


def test_the_table_of_growth_has_the_counts_of_today(repository):
    table = json.loads((repository / "docs/benchmarks/cpu_growth.json").read_text())
    rows = [row for row in table["rows"] if row["size"] == "50×84"]
    assert {row["operator"] for row in rows} == OPERATORS.keys()
    said = {
        (row["operator"], row["implementation"]): (row["kept_mib"] * 2**20, row["launches"])
        for row in rows
    }
    assert {names: _counts(*names, (50, 84)) for names in said} == said


def _training_step(name, size):
    """Return a backbone, images and a training step that drops no branches, as was published."""
    model, image = BACKBONES[name]().train(), torch.randn(1, 3, *size)
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0

    def step():
        torch.autograd.backward([out.mean() for out in model(image)])
        model.zero_grad()

    return model, image, step


# MiB that the published networks keep for one image of 256×320 in float32, the share of it that
# ours may keep, and the operations that the published ones launch
PUBLISHED = {
    "ACmixResNet-50": (1111, 1 / 5.5, 1433),
    "BiFormer-small": (611, 1 / 3, 2053),
    "UniFormer-small": (200, 1 / 1.5, 825),
    "SwiftFormer-l1": (128, 1 / 1.25, 863),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_backbones_keep_and_launch_less_than_the_published_networks(name):
    kept, share, launches = PUBLISHED[name]
    model, image, step = _training_step(name, (256, 320))
    assert kept_bytes(lambda: model(image), model.parameters()) <= kept * share * 2**20
    assert count_launches(step) <= launches


def test_larger_maps_launch_no_more_than_the_published_network():
    *_, step = _training_step("BiFormer-small", (512, 672))
    assert count_launches(step) <= 2115

"""Laws of local attention: its definition, its borders, and that all implementations agree."""

import pytest
import torch
from helpers import devices, mirror, output_and_gradients
from local_attention_cases import (
    EXACT,
    assert_within_budget,
    attend,
    attend_by_loops,
    make_inputs,
)

from hybrid_backbones.ops import local_attention, triton_support
from hybrid_backbones.ops.local_attention import api
from hybrid_backbones.ops.local_attention.borders import reflect

SIZES = [(1, 1), (1, 5), (2, 3), (7, 9), (17, 23)]

# 'triton', which does not compute in float64, is compared with the reference in its own file
backends = pytest.mark.parametrize("backend", ["reference", "tiled"])


@pytest.mark.parametrize("length", range(1, 8))
def test_positions_outside_are_mirrored_as_often_as_needed(length):
    positions = torch.arange(-30, 31)
    expected = [mirror(position, length) for position in positions.tolist()]
    assert reflect(positions, length).tolist() == expected


@backends
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation"),
    [
        ((5, 5), 3, 1, 1),
        ((5, 5), 5, 2, 1),
        ((5, 6), 3, 1, 2),
        ((9, 4), 3, 3, 2),
        ((2, 3), 7, 1, 1),
        ((2, 3), 5, 2, 3),
        ((1, 5), 7, 2, 1),
        ((1, 1), 3, 1, 1),
        ((9, 10), 5, 1, 1),
    ],
    ids=str,
)
def test_the_definition_is_a_loop_over_neighbours(size, kernel_size, stride, dilation, backend):
    settings = dict(stride=stride, dilation=dilation)
    inputs = make_inputs(size, stride)
    actual = output_and_gradients(attend(kernel_size, **settings, backend=backend), inputs)
    expected = output_and_gradients(
        lambda *tensors: attend_by_loops(*tensors, kernel_size, **settings), inputs
    )
    torch.testing.assert_close(actual, expected, **EXACT)


@backends
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation"),
    [((3, 4), 3, 1, 1), ((3, 4), 3, 2, 1), ((4, 5), 3, 1, 2), ((3, 3), 5, 2, 2), ((1, 2), 3, 1, 1)],
    ids=str,
)
def test_gradients_are_those_of_finite_differences(size, kernel_size, stride, dilation, backend):
    inputs = make_inputs(size, stride, batch=1, head_dim=2)
    function = attend(kernel_size, stride=stride, dilation=dilation, backend=backend)
    assert torch.autograd.gradcheck(function, inputs)


@devices
@pytest.mark.parametrize("dilation", [1, 2, 3], ids="dilation{}".format)
@pytest.mark.parametrize("stride", [1, 2, 3], ids="stride{}".format)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7], ids="kernel{}".format)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_give_what_the_reference_gives(size, kernel_size, stride, dilation, device):
    settings = dict(stride=stride, dilation=dilation)
    inputs = make_inputs(size, stride, device=device)
    tiled = output_and_gradients(attend(kernel_size, **settings, backend="tiled"), inputs)
    reference = output_and_gradients(attend(kernel_size, **settings, backend="reference"), inputs)
    torch.testing.assert_close(tiled, reference, **EXACT)


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_tiles_err_at_most_twice_as_much_as_the_reference(stride, dilation, dtype, device):
    settings = dict(stride=stride, dilation=dilation)
    inputs = make_inputs((17, 23), stride, head_dim=16, dtype=dtype, device=device)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    tiled = output_and_gradients(attend(7, **settings, backend="tiled"), inputs)
    reference = output_and_gradients(attend(7, **settings, backend="reference"), inputs)
    exact = output_and_gradients(attend(7, **settings, backend="reference"), exact_inputs)
    assert_within_budget(tiled, reference, exact)


@devices
def test_the_default_backend_gives_what_the_reference_gives(device):
    inputs = make_inputs((9, 12), device=device)
    chosen = output_and_gradients(attend(5), inputs)
    reference = output_and_gradients(attend(5, backend="reference"), inputs)
    torch.testing.assert_close(chosen, reference, **EXACT)


@pytest.mark.parametrize(
    ("backend", "fast", "runs"),
    [
        ("reference", True, "reference"),
        ("tiled", True, "tiled"),
        (None, True, "triton"),
        (None, False, "tiled"),
    ],
)
def test_a_named_backend_runs_and_none_takes_the_fastest(monkeypatch, backend, fast, runs):
    monkeypatch.setattr(api, "unsupported_reason", lambda *_: None)
    monkeypatch.setattr(triton_support, "is_fast", lambda device: fast)
    for name in api.BACKENDS:
        monkeypatch.setitem(api.BACKENDS, name, lambda *_, name=name: name)
    maps = (x.float() for x in make_inputs((5, 5)))
    assert local_attention(*maps, 3, backend=backend) == runs


MAP = torch.zeros(1, 2, 3, 5, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kernel_size=4), "kernel_size=4"),
        (dict(kernel_size=0), "kernel_size=0"),
        (dict(kernel_size=-3), "kernel_size=-3"),
        (dict(stride=0), "stride=0"),
        (dict(dilation=0), "dilation=0"),
        (dict(dilation=-1), "dilation=-1"),
        (dict(key=MAP[0], value=MAP[0]), r"key and value .* \(2, 3, 5, 5\)"),
        (dict(value=MAP[..., 1:]), r"key and value .* \(1, 2, 3, 5, 4\)"),
        (dict(key=MAP[:, :1]), r"key and value .* \(1, 1, 3, 5, 5\)"),
        (dict(query=MAP[0]), r"query .* got \(2, 3, 5, 5\)"),
        (dict(query=MAP[:, :1]), r"query .* got \(1, 1, 3, 5, 5\)"),
        (dict(query=MAP[..., 1:]), r"query must have shape \(1, 2, 3, 5, 5\)"),
        (dict(stride=2), r"query must have shape \(1, 2, 3, 3, 3\).*stride=2"),
        (dict.fromkeys(["query", "key", "value"], MAP[:, :, :0]), r"empty.*\(1, 2, 0, 5, 5\)"),
        (dict.fromkeys(["query", "key", "value"], MAP[:, :0]), r"empty.*\(1, 0, 3, 5, 5\)"),
        (dict.fromkeys(["query", "key", "value"], MAP[..., :0]), r"empty.*\(1, 2, 3, 5, 0\)"),
        (dict.fromkeys(["query", "key", "value"], MAP.int()), "dtype.*int32"),
        (dict(key=MAP.half()), "dtype.*float32, torch.float16"),
        (dict(value=MAP.double()), "dtype.*float32 and torch.float64"),
        (dict(value=MAP.to("meta")), "device.*meta"),
        (dict(backend="fastest"), "backend.*'reference', 'tiled'.*'fastest'"),
    ],
    ids=[
        "even kernel",
        "kernel of zero",
        "negative kernel",
        "stride",
        "dilation",
        "negative dilation",
        "maps without batch",
        "smaller value",
        "fewer key heads",
        "query without batch",
        "fewer query heads",
        "smaller query",
        "query not strided",
        "no channels",
        "no heads",
        "no columns",
        "integers",
        "key of another dtype",
        "value of another dtype",
        "two devices",
        "backend",
    ],
)
def test_a_bad_argument_is_named(changes, message):
    arguments = dict(query=MAP, key=MAP, value=MAP, kernel_size=3) | changes
    with pytest.raises(ValueError, match=message):
        local_attention(**arguments)

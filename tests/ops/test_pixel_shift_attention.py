"""Laws of pixel-shift attention: its formula, its derivatives, what it keeps in memory."""

import pytest
import torch
import torch.nn.functional as F
from helpers import output_and_gradients
from pixel_shift_attention_cases import (
    STEPS,
    attention_by_unfolding,
    each_setting,
    half_dtypes,
    implementations,
    make_maps,
    relative_error,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_backbones.ops import pixel_shift_attention, triton_support
from hybrid_backbones.ops.pixel_shift_attention import api

# the interpreter of Triton 3.6 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

# those that compute in float64
backends = pytest.mark.parametrize("backend", ["reference", "shifted"])


@implementations
@each_setting
def test_it_is_the_unfolded_one(size, settings, attention):
    inputs = attention.make_maps(size, settings.get("stride", 1))
    actual = output_and_gradients(lambda *maps: attention(*maps, **settings), inputs)
    expected = output_and_gradients(
        lambda *maps: attention_by_unfolding(*maps, **settings)[0], inputs
    )
    torch.testing.assert_close(actual, expected, **attention.tolerance)


@implementations
def test_one_pixel_after_another_it_is_the_formula(attention):
    query, key, value = attention.make_maps((3, 4), channels=2)
    expected = torch.zeros_like(value)
    for y in range(3):
        for x in range(4):
            for row in range(max(y - 1, 0), min(y + 2, 3)):
                for col in range(max(x - 1, 0), min(x + 2, 4)):
                    weight = (query[..., y, x] * key[..., row, col]).sum(1, keepdim=True) / 2**0.5
                    expected[..., y, x] += weight * value[..., row, col]
    torch.testing.assert_close(attention(query, key, value), expected, **attention.tolerance)


@backends
@pytest.mark.parametrize(
    "settings", [dict(), dict(stride=2, num_heads=2), dict(dilation=2)], ids=str
)
def test_first_and_second_derivatives_are_right(backend, settings):
    inputs = make_maps((3, 4), settings.get("stride", 1), channels=2)

    def function(*maps):
        return pixel_shift_attention(*maps, backend=backend, **settings)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@backends
def test_the_result_may_be_changed_in_place(backend):
    inputs = make_maps((3, 4))
    actual, expected = (
        output_and_gradients(
            lambda *x, c=change: c(pixel_shift_attention(*x, backend=backend)), inputs
        )
        for change in (lambda out: out.mul_(2), lambda out: out * 2)
    )
    torch.testing.assert_close(actual, expected)


@implementations
def test_it_grows_with_the_third_power_as_nothing_is_normalised(attention):
    maps = attention.make_maps((4, 5))
    doubled = [2 * x for x in maps]
    assert torch.equal(attention(*doubled), 8 * attention(*maps))


@implementations
def test_what_lies_outside_of_the_map_is_zero(attention):
    # every pixel is one: the result counts the neighbours inside
    ones = torch.ones(1, 1, 4, 5, dtype=attention.dtype, device=attention.device)
    expected = F.conv2d(ones, ones.new_ones(1, 1, 3, 3), padding=1)
    assert torch.equal(attention(ones, ones, ones), expected)


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


@implementations
@pytest.mark.parametrize(
    ("stride", "dtype"),
    [
        (1, torch.float16),
        (2, torch.bfloat16),
        pytest.param(1, torch.bfloat16, marks=pytest.mark.exhaustive),
        pytest.param(2, torch.float16, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_half_precision_is_close_to_the_exact_attention(stride, dtype, attention):
    maps = attention.make_maps((9, 7), stride, channels=64, dtype=dtype)
    exact_maps = [x.detach().double().requires_grad_() for x in maps]
    actual = output_and_gradients(lambda *maps: attention(*maps, stride=stride), maps)
    expected = output_and_gradients(
        lambda *maps: pixel_shift_attention(*maps, stride=stride, backend="reference"), exact_maps
    )
    assert all(x.dtype == dtype for x in actual)
    for ours, exact in zip(actual, expected, strict=True):
        assert relative_error(ours.double(), exact) < STEPS * torch.finfo(dtype).eps


@implementations
def test_sums_beyond_half_precision_do_not_overflow_where_the_result_does_not(attention):
    ones = torch.ones(1, 1024, 1, 1, device=attention.device, dtype=torch.float16)
    # 16 · 16 · 1024 is four times what half precision can hold
    out = attention(16 * ones, 16 * ones, ones / 64)
    assert torch.equal(out, 128 * ones)


@implementations
@half_dtypes
def test_a_result_beyond_half_precision_is_had_in_single(dtype, attention):
    maps = attention.make_maps((5, 6), 2, channels=64, dtype=dtype)
    maps = [(100 * x).detach().requires_grad_() for x in maps]
    exact_maps = [x.detach().double().requires_grad_() for x in maps]

    def normalised(attend):
        return lambda *maps: F.layer_norm(attend(*maps).double(), (3, 3))

    wide = normalised(lambda *maps: attention(*maps, stride=2, dtype=torch.float32))
    exact = normalised(lambda *maps: pixel_shift_attention(*maps, stride=2, backend="reference"))
    assert attention(*maps, stride=2, dtype=torch.float32).dtype == torch.float32
    actual, expected = output_and_gradients(wide, maps), output_and_gradients(exact, exact_maps)
    assert expected[0].isfinite().all()
    assert [x.dtype for x in actual[1:]] == 3 * [dtype]
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative_error(ours.double(), theirs) < STEPS * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("backend", "fast", "runs"),
    [
        ("reference", True, "reference"),
        ("shifted", True, "shifted"),
        (None, True, "triton"),
        (None, False, "shifted"),
    ],
)
def test_a_named_backend_runs_and_none_takes_the_fastest(monkeypatch, backend, fast, runs):
    monkeypatch.setattr(api, "unsupported_reason", lambda *_: None)
    monkeypatch.setattr(triton_support, "is_fast", lambda device: fast)
    for name in api.BACKENDS:
        monkeypatch.setitem(api.BACKENDS, name, lambda *_, name=name: name)
    maps = (x.float() for x in make_maps((5, 5)))
    assert pixel_shift_attention(*maps, backend=backend) == runs


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
        (dict(dtype=torch.int32), "dtype must be a floating-point dtype, got torch.int32"),
        (dict(key=torch.ones(2, 8, 5, 6)), r"same shape .*\(2, 8, 5, 6\) and \(2, 8, 5, 7\)"),
        (dict(stride=2), r"query .*\(2, 8, 3, 4\).*got \(2, 8, 5, 7\)"),
        (dict(query=torch.ones(2, 8, 5, 7).double()), "same floating-point dtype.*float64"),
        (dict(query=torch.ones(2, 8, 5, 7, device="meta")), "same device.*meta"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_bad_argument_of_the_function_is_named(changes, message):
    maps = dict.fromkeys(("query", "key", "value"), torch.ones(2, 8, 5, 7))
    with pytest.raises(ValueError, match=message):
        pixel_shift_attention(**{**maps, **changes})

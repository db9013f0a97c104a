"""Laws of attention in shifted windows, for each implementation: its formula, its borders."""

import pytest
import torch
import torch.nn.functional as F
from helpers import devices, needs_cuda, output_and_gradients
from local_attention_cases import MAGNITUDES, assert_each_within_budget, make_exact_logits_
from window_attention_cases import (
    EXACT,
    IMPLEMENTATIONS,
    attend_by_position,
    each_implementation,
    make_inputs,
    make_map,
)

from hybrid_backbones.ops import shifted_window_attention
from hybrid_backbones.ops.window_attention import chunked, shifted_windows

each_size = pytest.mark.parametrize(
    "size", [(6, 9), (7, 8), (4, 13), (3, 7), (2, 2), (1, 5), (1, 1)], ids=str
)
each_shift = pytest.mark.parametrize("shift", [0, 1, 2])


@pytest.fixture(autouse=True)
def _garbage_in_fresh_memory():
    """Fill what is allocated with NaN, so that a result which nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@each_size
@each_shift
@each_implementation
def test_it_computes_the_formula(attend, size, shift):
    inputs = make_inputs(size, 3)
    actual = output_and_gradients(lambda *args: attend(*args, 3, shift), inputs)
    expected = output_and_gradients(lambda *args: attend_by_position(*args, 3, shift), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("workspace", [1, 2000, 2**30])
@pytest.mark.parametrize(
    ("window_size", "shift", "num_heads"), [(1, 0, 2), (2, 1, 1), (4, 2, 3), (6, 5, 2), (7, 3, 2)]
)
@each_implementation
def test_it_computes_the_formula_in_other_windows_and_chunks(
    monkeypatch, attend, window_size, shift, num_heads, workspace
):
    monkeypatch.setattr(chunked, "WORKSPACE", workspace)
    inputs = make_inputs((7, 10), window_size, num_heads)
    settings = window_size, shift
    actual = output_and_gradients(lambda *args: attend(*args, *settings), inputs)
    expected = output_and_gradients(lambda *args: attend_by_position(*args, *settings), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@each_implementation
def test_a_bias_of_another_dtype_is_rounded_to_that_of_the_maps(attend):
    *maps, bias = (x.detach().bfloat16() for x in make_inputs((7, 8), 3))
    expected = attend(*maps, bias, 3, 1)
    assert expected.dtype == torch.bfloat16
    torch.testing.assert_close(attend(*maps, bias.float(), 3, 1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(4, 4), (5, 3)], ids=str)
@each_implementation
def test_its_gradients_are_its_derivatives(attend, size):
    inputs = make_inputs(size, 2, num_heads=1, head_dim=2, batch=1)
    assert torch.autograd.gradcheck(lambda *args: attend(*args, 2, 1), inputs)


def test_gradients_of_gradients_are_their_derivatives():
    inputs = make_inputs((3, 4), 2, num_heads=1, head_dim=2, batch=1)
    assert torch.autograd.gradgradcheck(
        lambda *args: IMPLEMENTATIONS["chunked"](*args, 2, 1), inputs
    )


@each_implementation
def test_parts_of_one_projection_are_as_good_as_maps_of_their_own(attend):
    *maps, bias = make_inputs((7, 8), 3)
    expected = output_and_gradients(lambda *args: attend(*args, 3, 1), [*maps, bias])
    qkv = torch.cat(maps, 1).detach().to(memory_format=torch.channels_last).requires_grad_()
    actual = output_and_gradients(
        lambda qkv, bias: attend(*qkv.chunk(3, 1), bias, 3, 1), [qkv, bias]
    )
    expected = [expected[0], torch.cat(expected[1:4], 1), expected[4]]
    torch.testing.assert_close(actual, expected, **EXACT)


@each_implementation
def test_the_result_may_be_changed_in_place(attend):
    inputs = make_inputs((7, 8), 3)
    actual = output_and_gradients(lambda *args: attend(*args, 3, 1).mul_(2), inputs)
    expected = output_and_gradients(lambda *args: attend(*args, 3, 1) * 2, inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@each_size
@each_shift
@each_implementation
def test_padding_takes_no_part(attend, size, shift):
    # weights that sum to one over the map's own positions keep a constant
    query, key, _, bias = make_inputs(size, 3)
    value = torch.full_like(query, 3.0)
    torch.testing.assert_close(attend(query, key, value, bias, 3, shift), value, **EXACT)


@each_shift
def test_what_padding_contains_has_no_effect(monkeypatch, shift):
    inputs = make_inputs((6, 8), 5)
    attend = IMPLEMENTATIONS["reference"]  # the other pads nothing
    expected = output_and_gradients(lambda *args: attend(*args, 5, shift), inputs)
    fills = []

    def pad_with_noise(x, divisor):
        below, right = -x.shape[2] % divisor, -x.shape[3] % divisor
        padded = F.pad(x, (0, right, 0, below), value=1e3 if x.is_floating_point() else 0)
        fills.append(padded.numel() - x.numel())
        return padded

    monkeypatch.setattr(shifted_windows, "pad_to_multiple", pad_with_noise)
    actual = output_and_gradients(lambda *args: attend(*args, 5, shift), inputs)
    assert sum(fills) > 0
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("place", [(0, 0), (6, 7)], ids=str)
@each_implementation
def test_what_is_not_finite_stays_in_its_window(attend, place):
    query, key, value, bias = make_inputs((7, 8), 3)
    broken = value.detach().clone()
    broken[(1, slice(None), *place)] = float("nan")
    rows, columns = (torch.arange(side) // 3 for side in (7, 8))
    hit = (rows == place[0] // 3)[:, None] & (columns == place[1] // 3)
    expected = attend(query, key, value, bias, 3, 0)
    expected[1] = expected[1].masked_fill(hit, float("nan"))
    actual = attend(query, key, broken, bias, 3, 0)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("padding", [1, 2])
@each_implementation
def test_a_map_of_one_window_is_as_if_the_window_were_smaller(attend, padding):
    size = 5 - padding
    query, key, value, _ = make_inputs((size, size), 1)
    bias = make_map(2, 5, 5, 5, 5)
    large = attend(query, key, value, bias.flatten(3).flatten(1, 2), 5, 0)
    bias = bias[:, :size, :size, :size, :size].flatten(3).flatten(1, 2)
    torch.testing.assert_close(large, attend(query, key, value, bias, size, 0), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_implementation
def test_half_precision_is_rounded_once(attend, dtype):
    inputs = make_inputs((9, 13), 4, dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    actual = output_and_gradients(lambda *args: attend(*args, 4, 2), inputs)
    expected = output_and_gradients(lambda *args: attend(*args, 4, 2), exact)
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == dtype
        assert (x.double() - y).norm() < torch.finfo(dtype).eps / 2 * y.norm()


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@each_implementation
def test_at_any_logit_it_errs_at_most_twice_as_much_as_the_formula(attend, magnitude):
    inputs = make_inputs((6, 7), 3, head_dim=16, batch=1, dtype=torch.float32)
    make_exact_logits_(*inputs[:2], magnitude)
    with torch.no_grad():
        inputs[3].copy_(torch.randint_like(inputs[3], -1, 2))
    assert_each_within_budget(
        lambda *args: attend(*args, 3, 1), lambda *args: attend_by_position(*args, 3, 1), inputs
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_implementation
def test_half_precision_holds_where_logits_do_not_fit_it(attend, dtype):
    inputs = make_inputs((9, 13), 4, head_dim=16, dtype=torch.float32)
    with torch.no_grad():
        # of every other query all keys have a share
        inputs[0].mul_(torch.tensor([300, 1e-2]).repeat(7)[:13])
        inputs[1].mul_(300)
    inputs = [x.detach().to(dtype).requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    actual = output_and_gradients(lambda *args: attend(*args, 4, 2), inputs)
    expected = output_and_gradients(lambda *args: attend(*args, 4, 2), exact)
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == dtype
        assert (x.double() - y).norm() < torch.finfo(dtype).eps * y.norm()  # false for NaN


@each_implementation
def test_autocast_computes_in_the_dtype_of_the_maps(attend):
    inputs = make_inputs((9, 13), 4, dtype=torch.bfloat16)
    inputs[3] = inputs[3].detach().float().requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        actual = output_and_gradients(lambda *args: attend(*args, 4, 2), inputs)
    expected = output_and_gradients(lambda *args: attend(*args, 4, 2), exact)
    assert [x.dtype for x in actual] == 4 * [torch.bfloat16] + [torch.float32]
    for x, y in zip(actual, expected, strict=True):
        assert (x.double() - y).norm() < torch.finfo(torch.bfloat16).eps * y.norm()


@pytest.mark.parametrize("frozen", range(4))
def test_inputs_that_need_no_gradient_get_none(frozen):
    inputs = make_inputs((7, 8), 3)
    expected = output_and_gradients(lambda *args: shifted_window_attention(*args, 3, 1), inputs)
    inputs[frozen].requires_grad_(False)
    out = shifted_window_attention(*inputs, 3, 1)
    trained = [x for x in inputs if x.requires_grad]
    signs = torch.randint(2, out.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    actual = torch.autograd.grad(out, trained, signs.to(out))
    del expected[1 + frozen]
    torch.testing.assert_close([out.detach(), *actual], expected, **EXACT)


@each_implementation
def test_an_empty_batch_stays_empty(attend):
    inputs = make_inputs((7, 8), 3, batch=0)
    out, *gradients = output_and_gradients(lambda *args: attend(*args, 3, 1), inputs)
    assert out.shape == (0, 6, 7, 8)
    assert [x.shape for x in gradients] == [x.shape for x in inputs]


def test_another_default_device_changes_nothing():
    inputs = make_inputs((7, 8), 3)
    expected = shifted_window_attention(*inputs, 3, 1)
    with torch.device("meta"):
        actual = shifted_window_attention(*inputs, 3, 1)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (dict(query=make_map(1, 6, 6, 6)), {}, r"same shape .*got \(1, 6, 6, 6\), \(2, 6, 7, 8\)"),
        (dict(key=make_map(2, 6, 14, 16)), {}, r"same shape .*\(2, 6, 14, 16\)"),
        (dict(value=make_map(2, 6, 7, 8, dtype=torch.float32)), {}, "same floating-point dtype"),
        (dict(bias=make_map(2, 4, 4)), {}, r"\(h, 9, 9\) for window_size=3, got \(2, 4, 4\)"),
        (dict(bias=make_map(4, 9, 9)), {}, "4 heads of bias must divide 6 channels"),
        ({}, dict(window_size=0, shift=0), "got window_size=0, shift=0"),
        ({}, dict(shift=3), "0 <= shift < window_size, got window_size=3, shift=3"),
        ({}, dict(shift=-1), "shift=-1"),
    ],
)
def test_a_bad_argument_is_named(change, settings, message):
    inputs = dict(zip(("query", "key", "value", "bias"), make_inputs((7, 8), 3), strict=True))
    with pytest.raises(ValueError, match=message):
        shifted_window_attention(**(inputs | change), **{"window_size": 3, "shift": 1, **settings})


@devices
def test_the_fastest_that_can_run_is_taken(monkeypatch, device):
    taken = []
    for name in ("chunked", "reference"):
        monkeypatch.setattr(
            f"hybrid_backbones.ops.window_attention.api.shifted_window_attention_{name}",
            lambda *args, name=name: taken.append(name) or args[0],
        )
    inputs = make_inputs((6, 6), 3, device=device)
    shifted_window_attention(*inputs, 3)
    torch.compiler.reset()
    torch.compile(shifted_window_attention, fullgraph=True, backend="eager")(*inputs, 3)
    assert taken == ["chunked" if device == "cpu" else "reference", "reference"]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_cuda)])
def test_a_gpu_computes_the_same(device):
    inputs = make_inputs((10, 13), 7)
    expected = output_and_gradients(lambda *args: shifted_window_attention(*args, 7, 3), inputs)
    inputs = [x.detach().to(device).requires_grad_() for x in inputs]
    actual = output_and_gradients(lambda *args: shifted_window_attention(*args, 7, 3), inputs)
    torch.testing.assert_close([x.cpu() for x in actual], expected, **EXACT)

"""Identities of local attention that hold for every backend, on every device it runs on."""

import pytest
import torch
import torch.nn.functional as F
from helpers import output_and_gradients
from local_attention_cases import (
    MAGNITUDES,
    assert_each_within_budget,
    attend,
    implementations,
    make_exact_logits_,
    make_inputs,
    make_overflowing_logits,
)
from tiers import few_of

from hybrid_backbones.ops import local_attention

# the interpreter of Triton 3.6 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")


@implementations
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_kernel_of_one_returns_the_value(stride, attention):
    query, key, value = attention.make_inputs((7, 10), stride)
    out = attention(query, key, value, 1, stride=stride)
    torch.testing.assert_close(out, value[..., ::stride, ::stride], **attention.tolerance)


@implementations
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_constant_keys_average_the_mirrored_neighbourhood(kernel_size, stride, attention):
    query, key, value = attention.make_inputs((7, 9), stride)
    out = attention(query, torch.ones_like(key), value, kernel_size, stride=stride)
    padded = F.pad(value.flatten(0, 1), [kernel_size // 2] * 4, mode="reflect")
    expected = F.avg_pool2d(padded, kernel_size, stride).view_as(out)
    torch.testing.assert_close(out, expected, **attention.tolerance)


@implementations
def test_a_vector_added_to_all_keys_changes_nothing(attention):
    query, key, value = attention.make_inputs((6, 11))
    shifted = key + torch.randn_like(key[..., :1, :1])
    out, expected = (attention(query, k, value, 5) for k in (shifted, key))
    torch.testing.assert_close(out, expected, **attention.tolerance)


@implementations
def test_a_key_far_above_its_neighbours_takes_all(attention):
    query, key, value = attention.make_inputs((10, 10))
    key = torch.zeros_like(key)
    key[..., 4, 5] = 1e3 * query[..., 4, 4]
    out = attention(query, key, value, 3)
    torch.testing.assert_close(out[..., 4, 4], value[..., 4, 5], **attention.tolerance)


@implementations
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_at_any_logit_it_errs_at_most_twice_as_much_as_the_reference(magnitude, attention):
    kwargs = dict(batch=1, head_dim=4, dtype=torch.float32, device=attention.device)
    inputs = make_inputs((9, 10), **kwargs)
    make_exact_logits_(*inputs[:2], magnitude)
    reference = attend(5, backend="reference")
    assert_each_within_budget(lambda *x: attention(*x, 5), reference, inputs)


@implementations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_where_logits_do_not_fit_it(dtype, attention):
    inputs = make_overflowing_logits(dtype, (9, 10), batch=1, device=attention.device)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    actual = output_and_gradients(lambda *x: attention(*x, 5), inputs)
    expected = output_and_gradients(attend(5, backend="reference"), exact_inputs)
    for ours, exact in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        # false for NaN
        assert (ours.double() - exact).norm() < 2 * torch.finfo(dtype).eps * exact.norm()


@implementations
def test_transposed_maps_give_the_transposed_output(attention):
    inputs = attention.make_inputs((6, 11), 2)
    settings = dict(stride=2, dilation=2)
    transposed = attention(*[x.mT for x in inputs], 3, **settings)
    torch.testing.assert_close(
        transposed.mT, attention(*inputs, 3, **settings), **attention.tolerance
    )


@implementations
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 2), (3, 1)])
def test_a_crop_changes_nothing_away_from_its_borders(stride, dilation, attention):
    query, key, value = attention.make_inputs((23, 26), stride, batch=1)
    settings = dict(stride=stride, dilation=dilation)
    top, left = 3 * stride, 2 * stride
    cropped = attention(
        query[..., 3:, 2:], key[..., top:, left:], value[..., top:, left:], 5, **settings
    )
    full = attention(query, key, value, 5, **settings)
    inner = -(-2 * dilation // stride)  # queries nearer to the cut see mirrored pixels
    torch.testing.assert_close(
        cropped[..., inner:, inner:], full[..., 3 + inner :, 2 + inner :], **attention.tolerance
    )


@implementations
def test_a_row_of_a_batch_is_the_single_image(attention):
    inputs = attention.make_inputs((7, 10), batch=3)
    batch = attention(*inputs, 5)
    for i in range(3):
        single = attention(*[x[i : i + 1] for x in inputs], 5)
        torch.testing.assert_close(batch[i : i + 1], single, **attention.tolerance)


@implementations
def test_an_empty_batch_gives_empty_gradients(attention):
    inputs = attention.make_inputs((9, 10), 2, batch=0)
    out, *gradients = output_and_gradients(lambda *x: attention(*x, 3, stride=2), inputs)
    assert out.shape == (0, 2, 3, 5, 5)
    assert [g.shape for g in gradients] == [x.shape for x in inputs]


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_the_result_may_be_changed_in_place(backend):
    inputs = make_inputs((7, 10))
    actual, expected = (
        output_and_gradients(
            lambda *x, c=change: c(local_attention(*x, 3, backend=backend)), inputs
        )
        for change in (lambda out: out.mul_(2), lambda out: out * 2)
    )
    torch.testing.assert_close(actual, expected)


LAYOUTS = [
    pytest.param(lambda x: x.mT.contiguous().mT, id="transposed"),
    pytest.param(lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2), id="channels last"),
    pytest.param(lambda x: x.repeat_interleave(2, -1)[..., ::2], id="sliced"),
    pytest.param(lambda x: x[:1].expand_as(x), id="expanded"),
]


@implementations
@pytest.mark.parametrize("layout", few_of(LAYOUTS, "channels last", "expanded"))
def test_the_layout_in_memory_does_not_matter(layout, attention):
    inputs = attention.make_inputs((7, 10), num_heads=1)
    assert not any(layout(x).is_contiguous() for x in inputs)
    actual = output_and_gradients(lambda *x: layout(attention(*map(layout, x), 3)), inputs)
    expected = output_and_gradients(
        lambda *x: layout(attention(*(layout(x).contiguous() for x in x), 3)), inputs
    )
    torch.testing.assert_close(actual, expected, **attention.tolerance)


@implementations
def test_it_compiles_into_one_graph(attention):
    torch.compiler.reset()
    inputs = attention.make_inputs((9, 10), 2, num_heads=1)

    def function(query, key, value):
        return attention(query, key, value, 3, stride=2, dilation=2)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(compiled, inputs)
    torch.testing.assert_close(
        actual, output_and_gradients(function, inputs), **attention.tolerance
    )

"""Window attention where PyTorch's kernel for GPUs fails: many windows, the bias trained alone."""

import pytest
import torch
import torch.nn.functional as F
from helpers import devices, output_and_gradients
from window_attention_cases import EXACT, attend_by_position, each_implementation, make_inputs

from hybrid_backbones.ops.window_attention import reference

each_shift = pytest.mark.parametrize("shift", [0, 1, 2])


@each_shift
def test_more_heads_or_windows_than_one_call_takes_change_nothing(monkeypatch, shift):
    monkeypatch.setattr(reference, "MAX_HEADS", 17)
    inputs = make_inputs((7, 10), 3, 2, batch=2)  # 12 windows of 2 heads
    attend = reference.shifted_window_attention_reference
    actual = output_and_gradients(lambda *args: attend(*args, 3, shift), inputs)
    expected = output_and_gradients(lambda *args: attend_by_position(*args, 3, shift), inputs)
    torch.testing.assert_close(actual, expected, **EXACT)


@each_shift
def test_no_call_has_more_heads_or_windows_than_a_gpu_takes(monkeypatch, shift):
    monkeypatch.setattr(reference, "MAX_HEADS", 17)
    attend, numbers = F.scaled_dot_product_attention, []

    def note(query, *args, **kwargs):
        numbers.append(max(query.shape[:2]))
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    reference.shifted_window_attention_reference(*make_inputs((7, 10), 3, 2, batch=2), 3, shift)
    assert max(numbers) <= 17


@devices
@each_shift
@each_implementation
def test_the_bias_alone_may_need_a_gradient(attend, shift, device):
    # kernels for GPUs do not know float64
    inputs = [x.detach().float() for x in make_inputs((7, 8), 3)]
    expected = output_and_gradients(
        lambda *args: attend_by_position(*args, 3, shift),
        [x.double().requires_grad_() for x in inputs],
    )[-1]
    *maps, bias = (x.to(device) for x in inputs)
    bias.requires_grad_()
    _, actual = output_and_gradients(lambda bias: attend(*maps, bias, 3, shift), [bias])
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=1e-5)

"""Laws of the kernels of local attention: the reference's, in each dtype, at any border.

Without a GPU they run in the interpreter of Triton, on small sizes. The identities of
`test_local_attention_laws` hold for them, too.
"""

import subprocess
import sys

import pytest
import torch
from helpers import compiled, output_and_gradients, places
from local_attention_cases import TOLERANCES, assert_within_budget, attend, make_inputs
from triton_compile import MAX_SHARED_MEMORY, compile_launches

from hybrid_backbones.benchmark.probes import run_alone
from hybrid_backbones.ops import ACmix, local_attention, triton_support
from hybrid_backbones.ops.local_attention import triton
from hybrid_backbones.ops.local_attention.triton import (
    MAX_HEAD_DIM,
    MAX_KERNEL_SIZE,
    local_attention_triton,
)

pytestmark = [
    pytest.mark.skipif(not triton_support.INSTALLED, reason="needs Triton"),
    # the interpreter of Triton 3.6 with numpy 2
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]

dtypes = pytest.mark.parametrize("dtype", triton_support.DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _garbage_in_fresh_memory():
    """Fill what is allocated with NaN, so that a result which nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def compare(size, kernel_size, stride, dilation, **kwargs):
    """Hold output and gradients against those of the reference, in its dtype and in float64."""
    inputs = make_inputs(size, stride, **kwargs)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    settings = dict(stride=stride, dilation=dilation)
    kernels = attend(kernel_size, **settings, backend="triton")
    reference = attend(kernel_size, **settings, backend="reference")
    assert_within_budget(
        output_and_gradients(kernels, inputs),
        output_and_gradients(reference, inputs),
        output_and_gradients(reference, exact_inputs),
    )


@places
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation", "head_dim", "dtype"),
    [
        ((1, 1), 3, 1, 1, 8, torch.float32),
        ((1, 5), 5, 2, 1, 20, torch.float32),
        ((3, 2), 7, 1, 1, 16, torch.float32),
        ((7, 9), 7, 1, 1, 20, torch.float32),
        ((7, 9), 7, 1, 1, 20, torch.float16),
        ((7, 9), 7, 1, 1, 20, torch.bfloat16),
        ((9, 4), 3, 3, 2, 8, torch.float16),
        ((17, 3), 9, 1, 1, 32, torch.bfloat16),
        pytest.param((3, 17), 9, 1, 1, 32, torch.float32, marks=pytest.mark.exhaustive),
        ((10, 13), 5, 2, 1, 64, torch.float16),
        ((5, 20), 3, 1, 2, 16, torch.bfloat16),
        ((7, 10), 1, 2, 1, 8, torch.float32),
        ((8, 7), 13, 1, 1, 16, torch.float16),
        # common divisors of stride and dilation, and residues of the dilation that are far apart
        ((5, 13), 5, 2, 2, 8, torch.float32),
        ((5, 13), 3, 2, 4, 8, torch.float32),
        pytest.param((3, 21), 3, 4, 6, 8, torch.float32, marks=pytest.mark.exhaustive),
        ((3, 21), 3, 3, 5, 128, torch.float16),
    ],
    ids=str,
)
def test_kernels_err_at_most_twice_as_much_as_the_reference(
    size, kernel_size, stride, dilation, head_dim, dtype, device
):
    kwargs = dict(batch=1, num_heads=1, head_dim=head_dim, dtype=dtype, device=device)
    compare(size, kernel_size, stride, dilation, **kwargs)


@places
def test_each_head_of_each_image_has_its_own_maps(device):
    compare((9, 4), 3, 1, 1, batch=2, num_heads=2, head_dim=8, dtype=torch.float32, device=device)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=compiled)])
@dtypes
@pytest.mark.parametrize(
    ("kernel_size", "head_dim"),
    [(7, 8), (7, 20), (7, 32), (7, 64), (7, 128), (3, 16), (5, 64), (9, 32), (11, 16), (13, 128)],
)
def test_kernels_err_at_most_twice_as_much_on_larger_maps(kernel_size, head_dim, dtype, device):
    kwargs = dict(head_dim=head_dim, dtype=dtype, device=device)
    for stride, dilation in [(1, 1), (2, 3)]:
        compare((57, 83), kernel_size, stride, dilation, **kwargs)


@places
def test_the_gradient_of_the_output_may_lie_in_memory_in_any_order(device):
    inputs = make_inputs(
        (9, 5), batch=1, num_heads=1, head_dim=8, dtype=torch.float32, device=device
    )
    out, grad = attend(3, backend="triton")(*inputs), torch.randn_like(inputs[0])
    expected = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    # each layout is compiled anew on a GPU, where the order of the roundings may change
    tolerance = TOLERANCES[torch.float32] if device == "cuda" else dict(rtol=0, atol=0)
    for laid_out in (grad.mT.contiguous().mT, grad.movedim(2, -1).contiguous().movedim(-1, 2)):
        actual = torch.autograd.grad(out, inputs, laid_out, retain_graph=True)
        torch.testing.assert_close(actual, expected, **tolerance)


@places
def test_output_and_gradients_have_the_layout_of_the_inputs(device):
    inputs = make_inputs((3, 4), head_dim=8, dtype=torch.float32, device=device)
    inputs = [x.detach().movedim(2, -1).contiguous().movedim(-1, 2) for x in inputs]
    inputs = [x.requires_grad_() for x in inputs]
    for x in output_and_gradients(attend(3, backend="triton"), inputs):
        assert x.stride() == inputs[0].stride()


@places
def test_it_is_deterministic(device):
    inputs = make_inputs((9, 5), batch=1, num_heads=1, dtype=torch.float16, device=device)
    first, second = (output_and_gradients(attend(5, backend="triton"), inputs) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@places
def test_it_keeps_no_more_than_its_inputs_and_output_and_two_numbers_for_each_query(device):
    inputs = make_inputs((9, 10), head_dim=8, dtype=torch.float32, device=device)
    kept = []

    def keep(x):
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = attend(7, backend="triton")(*inputs)
    assert sum(x.numel() for x in kept) == 4 * out.numel() + 2 * out[:, :, 0].numel()


@places
def test_it_is_an_operator_of_torch(device):
    inputs = make_inputs((2, 3), 2, batch=1, num_heads=1, dtype=torch.float32, device=device)
    torch.library.opcheck(torch.ops.hybrid_backbones.local_attention, (*inputs, 3, 2, 1))


@places
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_layer_compiles_as_one_graph(dynamic, device):
    torch.compiler.reset()
    layers = [
        ACmix(8, 16, num_heads=2, stride=2, attn_kernel_size=3, attn_backend=backend).to(device)
        for backend in ("triton", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(1, 8, 7, 8, device=device, requires_grad=True)
    compiled = torch.compile(layers[0], fullgraph=True, backend="aot_eager", dynamic=dynamic)
    actual, expected = (output_and_gradients(f, [x]) for f in (compiled, layers[1]))
    torch.testing.assert_close(actual, expected)


def launch_all(*cases):
    for dtype, head_dim, size, kernel_size, stride, dilation in cases:
        inputs = make_inputs(size, stride, head_dim=head_dim, dtype=dtype)
        out = local_attention_triton(*inputs, kernel_size, stride, dilation)
        torch.autograd.grad(out, inputs, torch.ones_like(out))


def test_the_kernels_compile_for_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cases = [
        (torch.float32, 20, (1, 9), 13, 1, 1),
        (torch.bfloat16, MAX_HEAD_DIM, (21, 22), 7, 3, 2),
        # a tile of queries that are far apart sees a wide block
        (torch.float32, MAX_HEAD_DIM, (64, 64), 7, 16, 1),
        (torch.float32, MAX_HEAD_DIM, (64, 64), 7, 32, 1),
    ]
    launches = run_alone(compile_launches, launch_all, *cases)
    names = ["forward", "query_gradient", "key_value_gradient"] * len(cases)
    assert [name for name, _ in launches] == [f"{name}_kernel" for name in names]
    assert max(shared for _, shared in launches) <= MAX_SHARED_MEMORY


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (dict(dtype=torch.float64), {}, "float32, float16 and bfloat16, got torch.float64"),
        (dict(head_dim=MAX_HEAD_DIM + 1), {}, f"at most {MAX_HEAD_DIM} channels, got 129"),
        (dict(kernel_size=MAX_KERNEL_SIZE + 2), {}, "at most 63, got kernel_size=65"),
        (dict(), dict(INSTALLED=False), "Triton 3.3 or later is not installed"),
        (dict(), dict(INTERPRETED=False), "CUDA device or TRITON_INTERPRET=1 .* got cpu"),
    ],
)
def test_by_name_it_runs_or_says_why_not(monkeypatch, settings, change, message):
    for name, value in change.items():
        monkeypatch.setattr(triton_support, name, value)
    settings = dict(dtype=torch.float32, kernel_size=3) | settings
    kernel_size = settings.pop("kernel_size")
    inputs = make_inputs((2, 3), **settings)
    with pytest.raises(ValueError, match=f"backend='triton' cannot run: .*{message}"):
        local_attention(*inputs, kernel_size, backend="triton")
    expected = local_attention(*inputs, kernel_size, backend="tiled")
    torch.testing.assert_close(local_attention(*inputs, kernel_size), expected, rtol=0, atol=0)


def test_maps_too_large_to_count_in_32_bits_are_refused():
    huge = torch.empty(1, 1, 128, 2**12, 2**12 + 1, device="meta")
    with pytest.raises(ValueError, match="span at most 2147483647 elements"):
        local_attention(huge, huge, huge, 3, backend="triton")


@places
def test_a_gradient_spread_too_widely_to_count_in_32_bits_is_copied(monkeypatch, device):
    inputs = make_inputs((5, 6), dtype=torch.float32, device=device)
    attend = lambda *x: local_attention(*x, 3, backend="triton")  # noqa: E731
    out = attend(*inputs)
    wide = torch.randn(*out.shape, 50, device=device)[..., 0]
    expected = torch.autograd.grad(attend(*inputs), inputs, wide.contiguous())
    spans, launch = [], triton._launch
    monkeypatch.setattr(triton, "MAX_SPAN", 3 * 30)
    monkeypatch.setattr(
        triton, "_launch", lambda *args, **kw: spans.extend(args[1]) or launch(*args, **kw)
    )
    actual = torch.autograd.grad(out, inputs, wide)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert max(triton._span(x) for x in spans) <= 3 * 30 < triton._span(wide)


def test_without_triton_everything_else_is_there():
    program = """
import sys
sys.modules["triton"] = None
import torch
from hybrid_backbones.ops import local_attention
x = torch.ones(1, 2, 3, 4, 5)
assert (local_attention(x, x, x, 3) == 1).all()
try:
    local_attention(x, x, x, 3, backend="triton")
except ValueError as error:
    assert "not installed" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)

"""Laws of the kernel of pixel-shift attention: the reference's, in each dtype, for any map.

Without a GPU it runs in the interpreter of Triton, on small sizes. The laws of
`test_pixel_shift_attention` hold for it, too.
"""

import subprocess
import sys

import pytest
import torch
from helpers import compiled, output_and_gradients, places
from local_attention_cases import assert_within_budget
from pixel_shift_attention_cases import attention_by_unfolding, make_maps
from tiers import few_of
from torch.utils._python_dispatch import TorchDispatchMode
from triton_compile import MAX_SHARED_MEMORY, compile_launches

from hybrid_backbones.benchmark.probes import run_alone
from hybrid_backbones.ops import XVolution, pixel_shift_attention, triton_support
from hybrid_backbones.ops.pixel_shift_attention.triton import (
    MAX_KERNEL_SIZE,
    pixel_shift_attention_triton,
)

pytestmark = [
    pytest.mark.skipif(not triton_support.INSTALLED, reason="needs Triton"),
    # the interpreter of Triton 3.6 with numpy 2
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]

FLOAT32 = dict(rtol=1e-5, atol=1e-5)
OPERATOR = torch.ops.hybrid_backbones.pixel_shift_attention


@pytest.fixture(autouse=True)
def _garbage_in_fresh_memory():
    """Fill what is allocated with NaN, so that a result which nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def attend(backend="triton", **settings):
    """Fix all but the tensors."""
    return lambda *maps: pixel_shift_attention(*maps, backend=backend, **settings)


def make_small_maps(size, stride=1, **kwargs):
    return make_maps(size, stride, **{"batch": 1, "dtype": torch.float32, **kwargs})


def compare(size, kernel_size, stride, dilation, num_heads=1, **kwargs):
    """Hold output and gradients against those of the reference, in its dtype and in float64."""
    maps = make_small_maps(size, stride, **kwargs)
    exact_maps = [x.detach().double().requires_grad_() for x in maps]
    settings = dict(kernel_size=kernel_size, num_heads=num_heads, stride=stride, dilation=dilation)
    assert_within_budget(
        output_and_gradients(attend(**settings), maps),
        output_and_gradients(attend("reference", **settings), maps),
        output_and_gradients(attend("reference", **settings), exact_maps),
    )


@places
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation", "channels", "num_heads", "dtype"),
    [
        ((1, 1), 3, 1, 1, 3, 1, torch.float16),
        ((7, 9), 3, 1, 1, 20, 1, torch.float32),
        ((7, 9), 3, 1, 1, 20, 1, torch.float16),
        ((7, 9), 3, 1, 1, 20, 1, torch.bfloat16),
        ((3, 20), 3, 1, 2, 12, 2, torch.bfloat16),
        ((20, 3), 3, 2, 1, 5, 1, torch.float16),
        ((1, 70), 3, 3, 1, 9, 1, torch.float32),
        ((5, 6), 1, 2, 1, 6, 3, torch.float16),
        ((4, 5), 5, 1, 1, 3, 1, torch.float32),
        ((2, 5), 5, 2, 3, 6, 1, torch.bfloat16),
        ((3, 4), 7, 1, 1, 3, 1, torch.float16),
        # common divisors of stride and dilation, and steps beyond the map
        ((5, 13), 3, 2, 2, 4, 1, torch.float32),
        ((5, 13), 3, 4, 6, 4, 1, torch.float32),
        ((2, 3), 3, 7, 5, 4, 1, torch.float32),
    ],
    ids=str,
)
def test_the_kernel_errs_at_most_twice_as_much_as_the_reference(
    size, kernel_size, stride, dilation, channels, num_heads, dtype, device
):
    kwargs = dict(channels=channels, dtype=dtype, device=device)
    compare(size, kernel_size, stride, dilation, num_heads, **kwargs)


@places
def test_each_head_of_each_image_has_its_own_maps(device):
    compare((5, 4), 3, 1, 1, 2, batch=2, channels=6, device=device)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=compiled)])
@pytest.mark.parametrize("dtype", triton_support.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("kernel_size", "channels", "num_heads"),
    [(1, 64, 1), (3, 64, 1), (3, 250, 1), (3, 512, 1), (3, 64, 64), (5, 96, 1), (7, 40, 2)],
)
def test_the_kernel_errs_at_most_twice_as_much_on_larger_maps(
    kernel_size, channels, num_heads, dtype, device
):
    kwargs = dict(batch=2, channels=channels, dtype=dtype, device=device)
    for stride, dilation in [(1, 1), (2, 3)]:
        compare((57, 83), kernel_size, stride, dilation, num_heads, **kwargs)


@places
@pytest.mark.parametrize("dilation", [6, 2**31 - 1, 2**40])
def test_far_offsets_see_zeros_alone(dilation, device):
    query, key, value = make_small_maps((4, 5), device=device)
    # twice 2³¹ - 1 is -2 in 32 bits
    out = attend(kernel_size=5, dilation=dilation)(query, key, value)
    expected = attend(kernel_size=1)(query, key, value)
    torch.testing.assert_close(out, expected, **FLOAT32)


@places
@pytest.mark.parametrize("stride", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_second_derivatives_are_those_of_the_formula(stride, device):
    # a smooth function of the gradients of a smooth function of the output
    maps = make_small_maps((3, 4), stride, channels=3, device=device)

    def second(function, maps):
        grads = torch.autograd.grad(function(*maps).square().sum(), maps, create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), maps)

    exact_maps = [x.detach().double().requires_grad_() for x in maps]
    expected = second(lambda *maps: attention_by_unfolding(*maps, stride=stride)[0], exact_maps)
    actual = second(attend(stride=stride), maps)
    for ours, exact in zip(actual, expected, strict=True):
        assert (ours - exact).norm() <= 1e-5 * exact.norm()


class Calls(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is OPERATOR.default
        return function(*args, **(kwargs or {}))


@places
@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 2]])
def test_gradients_of_some_maps_are_as_those_of_all_and_each_is_computed_once(wanted, device):
    maps = make_small_maps((3, 4), channels=2, device=device)
    expected = torch.autograd.grad(attend()(*maps).sum(), maps)
    maps = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(maps)]
    out = attend()(*maps).sum()
    with Calls() as calls:
        actual = torch.autograd.grad(out, [maps[i] for i in wanted])
    assert calls.count == len(maps)
    torch.testing.assert_close(actual, tuple(expected[i] for i in wanted), rtol=0, atol=0)


LAYOUTS = [
    pytest.param(lambda x: x.mT.contiguous().mT, id="transposed"),
    pytest.param(lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1), id="channels last"),
    pytest.param(lambda x: x.repeat_interleave(2, -1)[..., ::2], id="sliced"),
    pytest.param(lambda x: torch.cat([x, x], 1).chunk(2, 1)[1], id="chunk"),
    pytest.param(lambda x: x[:1].expand_as(x), id="expanded"),
]


@places
@pytest.mark.parametrize("layout", few_of(LAYOUTS, "channels last", "chunk"))
def test_maps_and_their_gradient_may_lie_in_memory_in_any_order(layout, device):
    maps = make_small_maps((3, 4), 2, batch=2, channels=6, device=device)
    assert not any(layout(x).is_contiguous() for x in maps)
    function = attend(num_heads=2, stride=2)
    actual = output_and_gradients(lambda *maps: layout(function(*map(layout, maps))), maps)
    expected = output_and_gradients(
        lambda *maps: layout(function(*(layout(x).contiguous() for x in maps))), maps
    )
    torch.testing.assert_close(actual, expected, **FLOAT32)


@places
def test_channels_last_stays_channels_last(device):
    maps = make_small_maps((3, 4), channels=6, device=device)
    maps = [x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in maps]
    out = attend()(*maps)
    for x in (out, *torch.autograd.grad(out, maps, out.detach())):
        assert x.is_contiguous(memory_format=torch.channels_last)


@places
def test_it_is_deterministic(device):
    maps = make_small_maps((5, 4), 2, channels=9, dtype=torch.float16, device=device)
    first, second = (output_and_gradients(attend(stride=2), maps) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@places
def test_it_keeps_nothing_but_its_inputs(device):
    maps = make_small_maps((3, 4), device=device)
    kept = []

    def keep(x):
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend()(*maps)
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in maps]


@places
def test_an_empty_batch_gives_empty_gradients(device):
    maps = make_small_maps((3, 4), 2, batch=0, device=device)
    shapes = [x.shape for x in output_and_gradients(attend(stride=2), maps)]
    assert shapes == [x.shape for x in (maps[0], *maps)]


@places
def test_it_is_an_operator_of_torch(device):
    maps = make_small_maps((2, 3), 2, channels=2, device=device)
    torch.library.opcheck(OPERATOR, (*maps, 3, 1, 1, 2, 1, maps[0].dtype))


@places
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_layer_compiles_as_one_graph(dynamic, device):
    torch.compiler.reset()
    layers = [
        XVolution(4, 8, num_heads=2, stride=2, attn_backend=backend).to(device)
        for backend in ("triton", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(1, 4, 5, 6, device=device, requires_grad=True)
    compiled = torch.compile(layers[0], fullgraph=True, backend="aot_eager", dynamic=dynamic)
    actual, expected = (output_and_gradients(f, [x]) for f in (compiled, layers[1]))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def launch_all(*cases):
    for dtype, channels, num_heads, layout, settings in cases:
        kernel_size, stride, dilation = settings
        maps = make_small_maps((6, 40), stride, channels=channels, dtype=dtype)
        maps = [x.detach().to(memory_format=layout).requires_grad_() for x in maps]
        out = pixel_shift_attention_triton(
            *maps, kernel_size, num_heads, stride, dilation, maps[0].dtype
        )
        torch.autograd.grad(out, maps, torch.ones_like(out))


def test_the_kernel_compiles_for_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cases = [
        (torch.float32, 20, 1, torch.contiguous_format, (3, 1, 1)),
        (torch.float16, 64, 1, torch.channels_last, (3, 2, 1)),
        (torch.bfloat16, 6, 2, torch.contiguous_format, (MAX_KERNEL_SIZE, 1, 2)),
    ]
    launches = run_alone(compile_launches, launch_all, *cases)
    # forward, and the gradient of each of three maps
    assert [name for name, _ in launches] == ["attend_kernel"] * 4 * len(cases)
    assert max(shared for _, shared in launches) <= MAX_SHARED_MEMORY


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (dict(dtype=torch.float64), {}, "float32, float16 and bfloat16, got torch.float64"),
        (dict(kernel_size=MAX_KERNEL_SIZE + 2), {}, "at most 7, got kernel_size=9"),
        (dict(), dict(INSTALLED=False), "Triton 3.3 or later is not installed"),
        (dict(), dict(INTERPRETED=False), "CUDA device or TRITON_INTERPRET=1 .* got cpu"),
    ],
)
def test_by_name_it_runs_or_says_why_not(monkeypatch, settings, change, message):
    for name, value in change.items():
        monkeypatch.setattr(triton_support, name, value)
    maps = make_small_maps((2, 3), dtype=settings.get("dtype", torch.float32))
    kernel_size = settings.get("kernel_size", 3)
    with pytest.raises(ValueError, match=f"backend='triton' cannot run: .*{message}"):
        pixel_shift_attention(*maps, kernel_size, backend="triton")
    expected = pixel_shift_attention(*maps, kernel_size, backend="shifted")
    assert torch.equal(pixel_shift_attention(*maps, kernel_size), expected)


def test_without_triton_everything_else_is_there():
    program = """
import sys
sys.modules["triton"] = None
import torch
from hybrid_backbones.ops import pixel_shift_attention
x = torch.ones(1, 1, 3, 4)
assert (pixel_shift_attention(x, x, x)[..., 1:-1, 1:-1] == 9).all()
try:
    pixel_shift_attention(x, x, x, backend="triton")
except ValueError as error:
    assert "not installed" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)

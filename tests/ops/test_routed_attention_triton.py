"""Laws of the kernels of routed attention: the reference's, in each dtype, for any regions.

Without a GPU they run in the interpreter of Triton, on small sizes.
"""

import subprocess
import sys

import pytest
import torch
from helpers import output_and_gradients, places
from local_attention_cases import MAGNITUDES, assert_each_within_budget, make_exact_logits_
from triton_compile import MAX_SHARED_MEMORY, compile_launches

from hybrid_backbones.benchmark.probes import run_alone
from hybrid_backbones.ops import BiLevelRoutingAttention, routed_attention, triton_support
from hybrid_backbones.ops.routed_attention import api
from hybrid_backbones.ops.routed_attention.reference import routed_attention_reference
from hybrid_backbones.ops.routed_attention.triton import (
    MAX_HEAD_DIM,
    invert_routes,
    routed_attention_triton,
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


def make_regions(
    batch=2, queries=(3, 5), regions=(4, 5), topk=2, num_heads=2, head_dim=8, **kwargs
):
    """Make query, key and value of (number, tokens) regions, and different routes."""
    kwargs = {"dtype": torch.float32, "requires_grad": True, **kwargs}
    channels = num_heads * head_dim
    shapes = [(batch, *size, channels) for size in (queries, regions, regions)]
    tensors = [torch.randn(shape, **kwargs) for shape in shapes]
    scores = torch.rand(batch, queries[0], regions[0], device=tensors[0].device)
    return tensors, scores.topk(topk).indices


def attend(routes, num_heads, backend="triton"):
    """Fix all but the tensors that have gradients."""
    return lambda q, k, v: routed_attention(q, k, v, routes, num_heads, backend=backend)


def assert_within_budget(actual, reference, exact, dtype):
    """Allow twice the error of the reference in the same dtype, and one rounding."""
    for ours, theirs, truth in zip(actual, reference, exact, strict=True):
        assert ours.dtype == dtype
        budget = 2 * (theirs - truth).norm() + torch.finfo(dtype).eps * truth.norm()
        assert (ours - truth).norm() <= budget  # false for NaN


@places
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_at_any_logit_kernels_err_at_most_twice_as_much_as_the_reference(magnitude, device):
    tensors, routes = make_regions(batch=1, num_heads=4, head_dim=4, device=device)
    make_exact_logits_(*tensors[:2], magnitude)
    reference = attend(routes, 4, backend="reference")
    assert_each_within_budget(attend(routes, 4), reference, tensors)


@places
@dtypes
@pytest.mark.parametrize(
    "sizes",
    [
        dict(),
        dict(batch=1, queries=(20, 1), regions=(9, 1), topk=8, num_heads=1, head_dim=32),
        dict(batch=1, queries=(4, 21), regions=(4, 21), topk=3, num_heads=1, head_dim=16),
        dict(batch=1, queries=(2, 64), regions=(3, 64), num_heads=1, head_dim=48),
        dict(batch=1, queries=(2, 3), regions=(3, 70), num_heads=2, head_dim=5),
        dict(batch=1, queries=(3, 70), regions=(2, 3), num_heads=1, head_dim=100),
    ],
    ids=lambda x: "-".join(f"{k}={v}" for k, v in x.items()),
)
def test_kernels_err_at_most_twice_as_much_as_the_reference(sizes, dtype, device):
    tensors, routes = make_regions(**sizes, dtype=dtype, device=device)
    args = routes, sizes.get("num_heads", 2)
    exact_tensors = [x.detach().double().requires_grad_() for x in tensors]
    actual = output_and_gradients(attend(*args), tensors)
    reference = output_and_gradients(attend(*args, "reference"), tensors)
    exact = output_and_gradients(attend(*args, "reference"), exact_tensors)
    assert_within_budget(actual, reference, exact, dtype)


@places
@dtypes
def test_a_key_far_above_all_others_takes_all(dtype, device):
    (query, key, value), routes = make_regions(dtype=dtype, device=device)
    query, key, routes = torch.ones_like(query), torch.zeros_like(key), torch.zeros_like(routes)
    routes[..., 1], key[:, 0, 3] = 1, 1e4
    out, grad = output_and_gradients(lambda value: attend(routes, 2)(query, key, value), [value])
    # on a GPU, a product in float32 is the sum of three in TF32, with 11 bits of each factor
    rtol = 2**-22 if (device, dtype) == ("cuda", torch.float32) else 0
    torch.testing.assert_close(out, value[:, :1, 3:4].expand_as(out), rtol=rtol, atol=0)
    assert (grad[:, 0, 3] != 0).any()
    grad[:, 0, 3] = 0
    assert not grad.any()


@places
@pytest.mark.parametrize(
    "lay_out",
    [
        lambda x: torch.stack([x, x], 3).flatten(3)[..., : x.shape[3]],  # as a chunk of q, k, v
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # channels far apart
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    ],
    ids=["chunk", "channels first", "regions first", "every other token"],
)
def test_inputs_may_lie_in_memory_in_any_order(lay_out, device):
    tensors, routes = make_regions(2, (2, 5), (3, 5), num_heads=1, device=device)
    expected = output_and_gradients(attend(routes, 1), tensors)
    laid_out = [lay_out(x.detach()).requires_grad_() for x in tensors]
    assert not any(x.is_contiguous() for x in laid_out)
    routes = routes.mT.contiguous().mT
    function = attend(routes, 1)
    actual = output_and_gradients(function, laid_out)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    # so may the gradient
    out, signs = function(*tensors), torch.randn_like(tensors[0])
    expected = torch.autograd.grad(out, tensors, signs, retain_graph=True)
    actual = torch.autograd.grad(out, tensors, lay_out(signs))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@places
def test_regions_that_no_query_is_routed_to_have_no_gradient(device):
    tensors, routes = make_regions(device=device)
    routes = torch.full_like(routes[:, :, :1], 2)
    _, _, *grads = output_and_gradients(attend(routes, 2), tensors)
    for grad in grads:
        assert (grad[:, [0, 1, 3]] == 0).all()
        assert (grad[:, 2] != 0).any()


@places
def test_an_empty_batch_gives_an_empty_output(device):
    tensors, routes = make_regions(batch=0, device=device)
    shapes = [x.shape for x in output_and_gradients(attend(routes, 2), tensors)]
    assert shapes == [x.shape for x in (tensors[0], *tensors)]


@places
@pytest.mark.parametrize(("num_queries", "topk"), [(5, 3), (7, 1), (300, 4)])
def test_inverted_routes_name_for_each_region_those_that_chose_it(num_queries, topk, device):
    routes = torch.rand(2, num_queries, 6, device=device).topk(topk).indices
    sources, bounds = invert_routes(routes, 6)
    for image in range(2):
        for region in range(6):
            start, stop = bounds[image, region].tolist()
            expected = (routes[image] == region).any(1).nonzero()[:, 0]
            assert sources[image, start:stop].tolist() == expected.tolist()


@places
def test_it_is_deterministic(device):
    tensors, routes = make_regions(2, (8, 5), (4, 5), 3, 1, dtype=torch.float16, device=device)
    first, second = (output_and_gradients(attend(routes, 1), tensors) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@places
def test_it_is_an_operator_of_torch(device):
    tensors, routes = make_regions(1, (2, 3), (3, 3), num_heads=1, device=device)
    torch.library.opcheck(torch.ops.hybrid_backbones.routed_attention, (*tensors, routes, 1))


@places
def test_a_layer_compiles_as_one_graph(device):
    layers = [
        BiLevelRoutingAttention(16, 2, 3, 2, attn_backend=backend).to(device)
        for backend in ("triton", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(1, 16, 7, 8, device=device, requires_grad=True)
    compiled = torch.compile(layers[0], fullgraph=True, backend="aot_eager")
    actual, expected = (output_and_gradients(f, [x]) for f in (compiled, layers[1]))
    torch.testing.assert_close(actual, expected)


def launch_all(*cases):
    for dtype, head_dim in cases:
        tensors, routes = make_regions(1, (3, 70), (4, 70), head_dim=head_dim, dtype=dtype)
        out = routed_attention_triton(*tensors, routes, 2)
        torch.autograd.grad(out, tensors, torch.ones_like(out))


def test_the_kernels_compile_for_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cases = [
        (torch.float32, 48),
        (torch.float16, 8),
        (torch.bfloat16, MAX_HEAD_DIM),
    ]
    launches = run_alone(compile_launches, launch_all, *cases)
    names = ["forward", "query_gradient", "invert", "key_value_gradient"] * len(cases)
    assert [name for name, _ in launches] == [f"{name}_kernel" for name in names]
    assert max(shared for _, shared in launches) <= MAX_SHARED_MEMORY


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (dict(dtype=torch.float64), {}, "float32, float16 and bfloat16, got torch.float64"),
        (dict(head_dim=MAX_HEAD_DIM + 1), {}, f"at most {MAX_HEAD_DIM} channels, got 129"),
        (dict(), dict(INSTALLED=False), "Triton 3.3 or later is not installed"),
        (dict(), dict(INTERPRETED=False), "CUDA device or TRITON_INTERPRET=1 .* got cpu"),
    ],
)
def test_by_name_it_runs_or_says_why_not(monkeypatch, settings, change, message):
    for name, value in change.items():
        monkeypatch.setattr(triton_support, name, value)
    tensors, routes = make_regions(**settings)
    with pytest.raises(ValueError, match=f"backend='triton' cannot run: .*{message}"):
        routed_attention(*tensors, routes, 2, backend="triton")
    torch.testing.assert_close(
        routed_attention(*tensors, routes, 2), routed_attention_reference(*tensors, routes, 2)
    )


@pytest.mark.parametrize(("fast", "chosen"), [(True, "triton"), (False, "chunked")])
def test_the_default_is_the_kernels_only_where_they_are_compiled(monkeypatch, fast, chosen):
    tensors, routes = make_regions()
    assert not triton_support.is_fast(tensors[0].device)
    monkeypatch.setattr(triton_support, "is_fast", lambda device: fast)
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    for name in api.BACKENDS:
        monkeypatch.setitem(api.BACKENDS, name, lambda *_, name=name: name)
    assert routed_attention(*tensors, routes, 2) == chosen


def test_without_triton_everything_else_is_there():
    program = """
import sys
sys.modules["triton"] = None
import torch
from hybrid_backbones.ops import routed_attention
x, routes = torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 1, dtype=torch.int64)
assert (routed_attention(x, x, x, routes, 2) == 1).all()
try:
    routed_attention(x, x, x, routes, 2, backend="triton")
except ValueError as error:
    assert "not installed" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)

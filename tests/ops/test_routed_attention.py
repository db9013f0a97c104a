"""Laws of routed attention: that both implementations agree, and how little memory one takes."""

import sys

import pytest
import torch
from helpers import devices, output_and_gradients
from local_attention_cases import MAGNITUDES, assert_each_within_budget, make_exact_logits_
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_backbones.benchmark.probes import extra_memory, run_alone
from hybrid_backbones.ops.biformer import route_regions
from hybrid_backbones.ops.routed_attention import chunked, routed_attention
from hybrid_backbones.ops.routed_attention.chunked import routed_attention_chunked
from hybrid_backbones.ops.routed_attention.reference import routed_attention_reference

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-11)

backends = pytest.mark.parametrize("backend", ["reference", "chunked"])


def make_regions(batch=2, num_regions=6, topk=3, *, queries=(5, 4), tokens=3, dims=6, **kwargs):
    """Make query, key and value of regions, and different routes."""
    kwargs = {"dtype": torch.float64, "requires_grad": True, **kwargs}
    shapes = [(batch, *queries, dims), *[(batch, num_regions, tokens, dims)] * 2]
    tensors = [torch.randn(shape, **kwargs) for shape in shapes]
    device = tensors[0].device
    routes = torch.rand(batch, queries[0], num_regions, device=device).topk(topk).indices
    return tensors, routes


def attend(function, routes, num_heads, *args, **kwargs):
    """Fix all but the tensors that have gradients."""
    return lambda q, k, v: function(q, k, v, routes, num_heads, *args, **kwargs)


@devices
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10, 99, None])
def test_every_chunk_size_gives_the_reference(chunk, device):
    tensors, routes = make_regions(device=device)
    args = routes, 2
    expected = output_and_gradients(attend(routed_attention_reference, *args), tensors)
    actual = output_and_gradients(attend(routed_attention_chunked, *args, chunk=chunk), tensors)
    torch.testing.assert_close(actual, expected, **EXACT)


@backends
def test_gradients_are_those_of_finite_differences(backend):
    tensors, routes = make_regions(1, 4, 2, queries=(3, 2), tokens=2, dims=4)
    function = attend(routed_attention, routes, 2, backend=backend)
    assert torch.autograd.gradcheck(function, tensors)


@backends
def test_routes_may_be_in_any_order(backend):
    tensors, routes = make_regions()
    expected = routed_attention(*tensors, routes, 3, backend=backend)
    actual = routed_attention(*tensors, routes.flip(2), 3, backend=backend)
    torch.testing.assert_close(actual, expected, **EXACT)


class LargestTensor(TorchDispatchMode):
    """Keep the number of values of the largest storage that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage().nbytes() // x.element_size()
                self.largest = max(self.largest, storage)
        return out


def largest_tensor(function, tensors):
    """Return the number of values of the largest tensor made in forward and backward."""
    with LargestTensor() as recorder:
        out = function(*tensors)
        torch.autograd.grad(out, tensors, torch.ones_like(out))
    return recorder.largest


@pytest.mark.parametrize("topk", [1, 4, 16, 64])
def test_nothing_is_made_that_is_larger_than_the_query(monkeypatch, topk):
    monkeypatch.setattr(chunked, "MIN_WORKSPACE_ON_CPU", 1)
    settings = dict(queries=(64, 12), tokens=12, dims=16)
    tensors, routes = make_regions(2, 64, topk, **settings)
    args = routes, 2
    size = tensors[0].numel()
    assert largest_tensor(attend(routed_attention_chunked, *args), tensors) <= size
    # the reference holds all that is gathered
    assert largest_tensor(attend(routed_attention_reference, *args), tensors) >= topk * size


def memory_of_the_first_stage():
    """Measure forward and backward at stage 1 of BiFormer-T, 800×1344, in MiB; and the query."""
    torch.set_num_threads(1)
    tensors = [torch.randn(1, 256, 13 * 21, 64, requires_grad=True) for _ in range(3)]
    routes = route_regions(*tensors[:2], 1)
    small, few = make_regions(dtype=torch.float32)

    def step(tensors, routes):
        out = routed_attention(*tensors, routes, 2)
        return torch.autograd.grad(out, tensors, torch.ones_like(out))

    step(small, few)  # what the first call loads does not count
    return extra_memory(lambda: step(tensors, routes)), tensors[0].numel() * 4 / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the memory")
def test_a_training_step_takes_at_most_twice_the_memory_of_query_key_value_and_output():
    used, query = run_alone(memory_of_the_first_stage)
    # what is made includes the output, its gradient and three gradients
    assert 5 * query < used < 2 * 4 * query


def test_it_is_deterministic():
    tensors, routes = make_regions(2, 16, 8, queries=(16, 5), tokens=5, dtype=torch.float32)
    function = attend(routed_attention_chunked, routes, 2, chunk=3)
    first, second = (output_and_gradients(function, tensors) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@devices
@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_to_the_exact_result(dtype, backend, device):
    tensors, routes = make_regions(
        2, 16, 8, queries=(16, 5), tokens=5, dims=32, dtype=dtype, device=device
    )
    function = attend(routed_attention, routes, 4, backend=backend)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    actual = output_and_gradients(function, tensors)
    expected = output_and_gradients(function, exact)
    assert all(x.dtype == dtype for x in actual)
    # a few roundings, each of half a step, of what adds up with either sign
    errors = [relative_error(a, e) for a, e in zip(actual, expected, strict=True)]
    assert all(error < 2 * torch.finfo(dtype).eps for error in errors)  # false for NaN


def make_large_regions(**kwargs):
    return make_regions(1, 6, 3, queries=(6, 5), tokens=5, dims=16, dtype=torch.float32, **kwargs)


@devices
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_at_any_logit_chunks_err_at_most_twice_as_much_as_the_reference(magnitude, device):
    tensors, routes = make_large_regions(device=device)
    make_exact_logits_(*tensors[:2], magnitude)
    args = routes, 4
    assert_each_within_budget(
        attend(routed_attention_chunked, *args, chunk=2),
        attend(routed_attention_reference, *args),
        tensors,
    )


@devices
@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_where_logits_do_not_fit_it(dtype, backend, device):
    tensors, routes = make_large_regions(device=device)
    with torch.no_grad():
        tensors[0].mul_(300)
        tensors[0][:, ::2].mul_(1e-5)  # of every other region all keys have a share
        tensors[1].mul_(1000)
    tensors = [x.detach().to(dtype).requires_grad_() for x in tensors]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    function = attend(routed_attention, routes, 4, backend=backend)
    actual, expected = (output_and_gradients(function, x) for x in (tensors, exact))
    assert all(x.dtype == dtype for x in actual)
    errors = [relative_error(a, e) for a, e in zip(actual, expected, strict=True)]
    assert all(error < 2 * torch.finfo(dtype).eps for error in errors)  # false for NaN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(key=torch.zeros(2, 6, 3, 4)), r"\(2, 6, 3, 4\) and \(2, 6, 3, 6\)"),
        (dict(query=torch.zeros(2, 5, 4, 8)), r"\(2, R', T', 6\).*got \(2, 5, 4, 8\)"),
        (dict(query=torch.zeros(1, 5, 4, 6)), r"got \(1, 5, 4, 6\)"),
        (dict(num_heads=4), "num_heads=4, channels=6"),
        (dict(routes=torch.zeros(2, 4, 3, dtype=torch.int64)), r"\(2, 5, k\), got .*\(2, 4, 3\)"),
        (dict(routes=torch.zeros(2, 5, 3)), "integers .* got torch.float32"),
        (dict(routes=torch.zeros(2, 5, 7, dtype=torch.int64)), "1 to 6 regions, got 7"),
        (dict(routes=torch.zeros(2, 5, 0, dtype=torch.int64)), "1 to 6 regions, got 0"),
        (
            dict(key=torch.zeros(2, 6, 0, 6), value=torch.zeros(2, 6, 0, 6)),
            "may be empty, got query",
        ),
        (dict(query=torch.zeros(2, 5, 0, 6)), r"only the batch may be empty.*\(2, 5, 0, 6\)"),
        (dict(query=torch.zeros(2, 5, 4, 6, dtype=torch.float64)), "same floating-point dtype"),
        (dict(query=torch.zeros(2, 5, 4, 6, device="meta")), "same device, got meta"),
        (dict(backend="fastest"), "backend.*'fastest'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_tensors_are_named(changes, message):
    (query, key, value), routes = make_regions(dtype=torch.float32)
    given = dict(query=query, key=key, value=value, routes=routes, num_heads=2)
    with pytest.raises(ValueError, match=message):
        routed_attention(**{**given, **changes})

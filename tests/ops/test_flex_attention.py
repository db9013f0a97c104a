"""Laws of FlexAttention as a backend: the definitions, which blocks are skipped, and refusals."""

from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from helpers import compiled, output_and_gradients
from local_attention_cases import EXACT, attend, attend_by_loops, make_inputs

from hybrid_backbones.ops import choice, flex, local_attention
from hybrid_backbones.ops.flex import BLOCK
from hybrid_backbones.ops.local_attention.flex import _neighbours
from hybrid_backbones.ops.routed_attention import flex as routed_flex
from hybrid_backbones.ops.routed_attention import routed_attention

# on a CPU, PyTorch says that it computes all logits
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

# height and width, kernel size, stride, dilation
LOCAL = [
    ((5, 6), 3, 1, 1),
    ((9, 4), 3, 3, 2),
    ((2, 3), 7, 1, 1),
    ((1, 5), 7, 2, 1),
    ((1, 1), 3, 1, 1),
    ((17, 23), 7, 1, 1),
    ((30, 21), 5, 2, 3),
]


def make_regions(queries, keys, topk, *, dtype=torch.float64, device="cpu", **kwargs):
    """Make tokens of 16 channels, and different routes; `queries` and `keys`: regions, tokens."""
    kwargs = dict(kwargs, dtype=dtype, device=device)
    tensors = [torch.randn(2, *shape, 16, **kwargs) for shape in (queries, keys, keys)]
    routes = torch.rand(2, queries[0], keys[0], device=device).topk(topk).indices
    return tensors, routes


@pytest.mark.parametrize(("size", "kernel_size", "stride", "dilation"), LOCAL, ids=str)
def test_local_attention_is_a_loop_over_neighbours(size, kernel_size, stride, dilation):
    inputs = make_inputs(size, stride, requires_grad=False)
    settings = dict(stride=stride, dilation=dilation)
    actual = local_attention(*inputs, kernel_size, **settings, backend="flex")
    assert actual.shape == inputs[0].shape
    torch.testing.assert_close(actual, attend_by_loops(*inputs, kernel_size, **settings), **EXACT)


@pytest.mark.parametrize(
    ("queries", "keys", "topk"),
    [((9, 4), (9, 4), 4), ((5, 7), (36, 9), 3), ((1, 2), (3, 1), 3), ((4, 150), (4, 130), 1)],
    ids=str,
)
@pytest.mark.parametrize("num_heads", [1, 2])
def test_routed_attention_is_the_definition(queries, keys, topk, num_heads):
    tensors, routes = make_regions(queries, keys, topk)
    actual, expected = (
        routed_attention(*tensors, routes, num_heads, backend=backend)
        for backend in ("flex", "reference")
    )
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_a_rounding(dtype):
    inputs = [x.to(dtype) for x in make_inputs((9, 10), requires_grad=False)]
    out = local_attention(*inputs, 5, backend="flex")
    exact = local_attention(*(x.double() for x in inputs), 5, backend="reference")
    assert out.dtype == dtype
    error = (out - exact).abs().max() / exact.abs().max()
    assert error <= torch.finfo(dtype).eps


def dense(mask, lengths):
    """Return what a mask keeps, pair by pair, and which pairs of blocks it computes."""
    zero = torch.zeros((), dtype=torch.long)
    queries, keys = (torch.arange(length) for length in lengths)
    kept = torch.stack(
        [
            mask.mask_mod(zero + image, zero, queries[:, None], keys)
            for image in range(len(mask.kv_num_blocks))
        ]
    )
    return kept, mask.to_dense()[:, 0].bool()


def blocks_of(kept):
    """Return which pairs of blocks have a pair that is kept."""
    rows = [part.any(1) for part in kept.split(BLOCK, 1)]
    return torch.stack([torch.stack([p.any(1) for p in r.split(BLOCK, 1)], 1) for r in rows], 1)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation", "most"),
    [
        # a block of 128 pixels is three rows, and sees three above and below
        ((40, 43), 7, 1, 1, 1.3),
        ((64, 90), 3, 1, 4, 1.3),
        ((33, 70), 5, 2, 1, 1.3),
        ((2, 200), 3, 1, 1, 1.3),
    ],
)
def test_hardly_any_block_without_neighbours_is_computed(size, kernel_size, stride, dilation, most):
    sizes = [-(-side // stride) for side in size], size
    settings = (*sizes[0], *size, kernel_size, stride, dilation, torch.float32)
    mask, _ = _neighbours(*settings, device=torch.device("cpu"))
    kept, computed = dense(mask, [side[0] * side[1] for side in sizes])
    needed = blocks_of(kept)
    assert not (needed & ~computed).any()
    assert computed.sum() <= most * needed.sum()
    assert computed.sum() < computed.numel()


def test_only_blocks_of_routed_regions_are_computed(monkeypatch):
    masks = []

    def keep(query, key, value, *, block_mask, scale):
        masks.append(block_mask)
        return value.new_zeros(query.shape)

    monkeypatch.setattr(routed_flex, "flex_attend", keep)
    # regions cross the borders of blocks
    tensors, routes = make_regions((16, 50), (16, 70), 2)
    routed_attention(*tensors, routes, 2, backend="flex")
    kept, computed = dense(masks[0], (16 * 50, 16 * 70))
    regions = torch.zeros(2, 16, 16, dtype=torch.bool).scatter_(2, routes, True)
    assert torch.equal(kept, regions.repeat_interleave(50, 1).repeat_interleave(70, 2))
    assert torch.equal(blocks_of(kept), computed)


def test_it_has_no_gradients_on_a_cpu():
    inputs = make_inputs((5, 5))
    with pytest.raises(ValueError, match="backend='flex' cannot run: it has no gradients on a CPU"):
        local_attention(*inputs, 3, backend="flex")
    with torch.no_grad():
        out = local_attention(*inputs, 3, backend="flex")
    torch.testing.assert_close(out, local_attention(*inputs, 3, backend="reference"), **EXACT)


def test_it_is_compiled_for_more_kinds_of_maps_than_eight_and_twice_for_all_sizes(monkeypatch):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(flex, "_compile", partial(flex._compile, keep))
    monkeypatch.setattr(flex, "_runs_compiled", lambda query: True)
    dtypes = torch.float64, torch.float32, torch.float16, torch.bfloat16
    kinds = [*product(dtypes, (16, 32))]
    for dtype, head_dim in kinds:
        for height in (6, 8, 9, 11):
            inputs = make_inputs((height, 9), head_dim=head_dim, dtype=dtype, requires_grad=False)
            out = local_attention(*inputs, 3, backend="flex")
        exact = local_attention(*inputs, 3, backend="reference")
        tolerance = dict(rtol=0, atol=8 * torch.finfo(dtype).eps)
        torch.testing.assert_close(out, exact, **tolerance)
    assert 8 < len(graphs) <= 2 * len(kinds)


@pytest.mark.parametrize("backend", ["flex", None])
def test_narrow_heads_are_refused_on_a_gpu_or_computed_otherwise(monkeypatch, backend):
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float16, requires_grad=False)
    reason = "each head must have at least 16 channels, got 8"
    assert flex.unsupported_reason(on_gpu, head_dim=16) is None
    monkeypatch.setattr(choice, "fastest_on_gpu", lambda *_: "flex")
    monkeypatch.setattr(choice.triton_support, "is_fast", lambda device: True)
    obstacles = dict(flex=lambda: flex.unsupported_reason(on_gpu, head_dim=8))
    arguments = ("local_attention", backend, "tiled", [on_gpu], obstacles)
    if backend is None:
        assert choice.choose_backend(*arguments, exported="exported") == "tiled"
    else:
        with pytest.raises(ValueError, match=f"backend='flex' cannot run: {reason}"):
            choice.choose_backend(*arguments, exported="exported")


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=compiled)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_outputs_and_gradients_are_those_of_the_definition(dtype, device):
    tolerance = dict(rtol=0, atol=20 * torch.finfo(dtype).eps)
    inputs = make_inputs((37, 45), head_dim=16, dtype=dtype, device=device)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    actual = output_and_gradients(attend(7, backend="flex"), inputs)
    expected = output_and_gradients(attend(7, backend="reference"), exact)
    torch.testing.assert_close([x.double() for x in actual], list(expected), **tolerance)

    settings = dict(dtype=dtype, device=device, requires_grad=True)
    tensors, routes = make_regions((16, 21), (16, 21), 4, **settings)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    actual, expected = (
        output_and_gradients(
            lambda q, k, v, backend=backend: routed_attention(q, k, v, routes, 1, backend=backend),
            maps,
        )
        for backend, maps in (("flex", tensors), ("reference", exact))
    )
    torch.testing.assert_close([x.double() for x in actual], list(expected), **tolerance)

"""Laws of attention weights, of every operator on maps of any size."""

import pytest
import torch
from explain.operator_traces import derived_weights, weighted_values
from operator_cases import CHANNELS, MAP_OPERATORS, make_uneven

from hybrid_backbones.explain import attention
from hybrid_backbones.ops import (
    ACmix,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    EfficientAdditiveAttention,
)
from hybrid_backbones.ops.swiftformer import unit_vectors

# functions have no weights, LocFormer's parts other inputs
KINDS = {
    name: make
    for name, make in MAP_OPERATORS.items()
    if name.split(",")[0]
    in {
        *("ACmix", "ACmixWindow", "XVolution", "MergedXVolution", "AttentionLePE"),
        *("AttentionLePE2d", "BiLevelRoutingAttention", "BiLevelRoutingAttention2d"),
        *("MixingAttention", "GlobalRelationAggregator", "LocalRelationAggregator"),
    }
} | {
    "ACmix, dilation 2": lambda: ACmix(CHANNELS, CHANNELS, dilation=2, padding=2),
    # which has regions of padding only
    "BiLevelRoutingAttention, 4×4": lambda: BiLevelRoutingAttention(CHANNELS, 2, 4, 3),
}
each_operator = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
SOFTMAX = [name for name in KINDS if not name.startswith(("XVol", "Merged", "Local"))]
SOFTMAX.append("XVolution, global")
SIZES = [(7, 9), (6, 4), (1, 5)]


def make_case(make, size, dtype=torch.float64):
    module = make_uneven(make()).to(dtype).eval()
    return module, torch.randn(2, CHANNELS, *size, dtype=dtype)


def positions(module, x):
    """Return corners and some positions between."""
    rows, columns = module(x).shape[2:]
    return sorted(
        {(y, x) for y in (0, rows // 2, rows - 1) for x in (0, columns // 3, columns - 1)}
    )


@each_operator
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_weights_are_the_derivatives_of_the_output_by_the_values(make, size):
    # so that they are zero wherever a position cannot be seen
    module, x = make_case(make, size)
    for position in positions(module, x):
        weights = attention(module, x, "", position)
        expected = derived_weights(module, x, position, weights.shape[1])
        assert weights.shape == expected.shape
        if isinstance(module, BiLevelRoutingAttention2d):
            # zeros that complete its regions after the projection are no values of the map
            weights, expected = (w[..., : size[0], : size[1]] for w in (weights, expected))
        assert torch.equal(weights == 0, expected == 0)
        assert torch.allclose(weights, expected, rtol=1e-9, atol=1e-12)


@each_operator
@each_dtype
def test_weights_times_values_are_the_output_before_the_projection(make, dtype):
    module, x = make_case(make, (7, 9), dtype)
    for y, column in positions(module, x):
        weights = attention(module, x, "", (y, column))
        assert weights.dtype == dtype
        found, out = weighted_values(module, x, weights)
        error = (found - out[:, y, column]).abs().max() / out.abs().max()
        assert error < 1e-6


@pytest.mark.parametrize("name", SOFTMAX)
@each_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_softmax_weights_sum_to_one(name, dtype, size):
    module, x = make_case(KINDS[name], size, dtype)
    for position in positions(module, x):
        weights = attention(module, x, "", position)
        assert (weights >= 0).all()
        assert torch.allclose(weights.sum((2, 3)), weights.new_ones(2, weights.shape[1]))


@pytest.mark.parametrize("first_release", [False, True])
def test_additive_weights_times_queries_are_the_global_query(first_release):
    module = EfficientAdditiveAttention(CHANNELS, first_release=first_release).double()
    x = torch.randn(2, CHANNELS, 5, 4, dtype=torch.float64)
    seen = []
    module.Proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module(x)
    tokens = x.flatten(2).mT
    query, key = (unit_vectors(f(tokens), 2) for f in (module.to_query, module.to_key))
    weights = attention(module, x, "", (3, 1))
    assert weights.shape == (2, 1, 5, 4)
    context = (weights.flatten(1)[..., None] * query).sum(1, keepdim=True) * key
    assert torch.allclose(context, seen[0], rtol=1e-9)
    assert torch.equal(weights, attention(module, x, "", (0, 0)))


def test_reflected_positions_add_up():
    # with equal logits, the nine neighbours of a corner are itself, two twice and one four times
    module = ACmix(CHANNELS, CHANNELS, attn_kernel_size=3)
    for conv in (module.conv2, module.conv_p):
        torch.nn.init.zeros_(conv.weight)
    weights = attention(module, torch.randn(1, CHANNELS, 4, 5), "", (0, 0)) * 9
    expected = torch.zeros(4, 5)
    expected[:2, :2] = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert torch.allclose(weights, expected.expand_as(weights))

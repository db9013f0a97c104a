"""The forms of operators for exported graphs compute the same as their definitions."""

import pytest
import torch
from torch import nn

from hybrid_backbones.layers import are_known, at_least
from hybrid_backbones.ops.local_attention.fixed_tiles import local_attention_fixed_tiles
from hybrid_backbones.ops.local_attention.reference import local_attention_reference
from hybrid_backbones.ops.routed_attention.exported import routed_attention_exported
from hybrid_backbones.ops.routed_attention.reference import routed_attention_reference
from hybrid_backbones.ops.uniformer import num_kept_tokens, order_by_score
from hybrid_backbones.ops.window_attention import roll, shift_within
from hybrid_backbones.ops.window_attention.exported import shifted_window_attention_exported
from hybrid_backbones.ops.window_attention.reference import shifted_window_attention_reference


@pytest.mark.parametrize("settings", [(7, 1, 1), (3, 2, 1), (5, 1, 2), (1, 1, 1), (7, 2, 3)])
@pytest.mark.parametrize("size", [(8, 16), (9, 5), (1, 1), (2, 19)])
def test_fixed_tiles_equal_the_definition(size, settings):
    stride = settings[1]
    torch.manual_seed(0)
    key, value = torch.randn(2, 2, 2, 3, *size, dtype=torch.float64)
    query = torch.randn_like(key)[..., ::stride, ::stride]
    maps = (x.flatten(1, 2) for x in (query, key, value))
    torch.testing.assert_close(
        local_attention_fixed_tiles(*maps, 2, *settings),
        local_attention_reference(query, key, value, *settings).flatten(1, 2),
    )


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (9, 6), (1, 1), (4, 19)])
def test_exported_windows_equal_the_definition(size, shift):
    torch.manual_seed(0)
    maps, bias = torch.randn(3, 2, 6, *size, dtype=torch.float64), torch.randn(2, 16, 16).double()
    torch.testing.assert_close(
        shifted_window_attention_exported(*maps, bias, 4, shift),
        shifted_window_attention_reference(*maps, bias, 4, shift),
    )


def test_exported_routed_attention_equals_the_definition():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 9, 4, 6, dtype=torch.float64)
    routes = torch.rand(2, 5, 9).argsort(-1)[..., :3]
    torch.testing.assert_close(
        routed_attention_exported(query[:, :5], key, value, routes, 2),
        routed_attention_reference(query[:, :5], key, value, routes, 2),
    )


class Sizes(nn.Module):
    """Everything that depends on a size where a graph takes any."""

    def forward(self, x):
        size = x.shape[2:]
        shift = shift_within(size, 4, 2)
        rows = x.new_zeros(at_least(size[0], 6), num_kept_tokens(size[1], 0.5))
        return roll(x, shift), rows, order_by_score(x.flatten(1))


@pytest.mark.parametrize("shape", [(1, 1, 3, 9), (2, 1, 5, 5), (3, 1, 9, 4), (1, 1, 8, 7)])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("record", ["trace", "export"])
def test_a_graph_follows_the_size(shape, record):
    example, images = torch.randn(2, 1, 6, 7), torch.randn(shape).round()
    if record == "trace":
        graph = torch.jit.trace(Sizes(), example)
    else:
        any_size = torch.export.Dim.DYNAMIC
        graph = torch.export.export(
            Sizes(),
            (example,),
            dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
            prefer_deferred_runtime_asserts_over_guards=True,
        ).module()
    for ours, theirs in zip(graph(images), Sizes()(images), strict=True):
        assert torch.equal(ours, theirs)


def test_sizes_of_a_graph_are_not_known():
    assert are_known(1, 2)
    assert not are_known(1, torch.tensor(2))
    assert at_least(torch.tensor(2), 3) == at_least(2, 3) == 3

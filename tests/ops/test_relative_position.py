"""Laws of the relative position bias: a number for each offset of two positions of a window."""

import pytest
import torch

from hybrid_backbones.layers import RelativePositionBias, relative_position_index

each_size = pytest.mark.parametrize("window_size", [7, 3, 2, 1])


def window_by_pairs(side):
    """List the places of all pairs of positions in the table, as Swin numbers them."""
    positions = [(y, x) for y in range(side) for x in range(side)]
    return [
        [(y - i + side - 1) * (2 * side - 1) + x - j + side - 1 for i, j in positions]
        for y, x in positions
    ]


@each_size
def test_relative_positions_are_numbered_as_in_swin(window_size):
    index = relative_position_index(window_size)
    assert index.dtype == torch.long
    assert index.tolist() == window_by_pairs(window_size)
    # each place of the table is used
    assert index.unique().tolist() == list(range((2 * window_size - 1) ** 2))


@each_size
def test_the_bias_of_a_pair_is_that_of_its_offset(window_size):
    module = RelativePositionBias(window_size, 4)
    bias, table = module.relative_position_bias(), module.relative_position_bias_table
    for i, row in enumerate(window_by_pairs(window_size)):
        for j, place in enumerate(row):
            assert torch.equal(bias[:, i, j], table[place])


def test_only_the_table_is_an_entry():
    assert list(RelativePositionBias(2, 4).state_dict()) == ["relative_position_bias_table"]


def test_a_window_without_positions_is_named():
    with pytest.raises(ValueError, match="window_size=0"):
        RelativePositionBias(0, 4)


def test_the_index_is_there_after_a_model_without_memory_has_got_some():
    with torch.device("meta"):
        module = RelativePositionBias(3, 2)
    module = module.to_empty(device="cpu")
    module.load_state_dict(RelativePositionBias(3, 2).state_dict())
    assert torch.equal(module.relative_position_index, relative_position_index(3))

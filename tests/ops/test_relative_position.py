"""Laws of the relative position bias: a number for each offset of two positions of a window."""

import pytest
import torch

from hybrid_backbones.ops.relative_position import relative_position_bias, relative_position_index


def window_by_pairs(height, width):
    """List the places of all pairs of positions in the table, as Swin numbers them."""
    positions = [(y, x) for y in range(height) for x in range(width)]
    return [
        [(y - i + height - 1) * (2 * width - 1) + x - j + width - 1 for i, j in positions]
        for y, x in positions
    ]


@pytest.mark.parametrize("window", [(7, 7), (2, 3), (3, 1), (1, 1)], ids=str)
def test_relative_positions_are_numbered_as_in_swin(window):
    index = relative_position_index(window)
    assert index.dtype == torch.long
    assert index.tolist() == window_by_pairs(*window)
    # each place of the table is used
    assert index.unique().tolist() == list(range((2 * window[0] - 1) * (2 * window[1] - 1)))


def test_the_bias_of_a_pair_is_that_of_its_offset():
    table = torch.randn(3 * 5, 4)
    bias = relative_position_bias(table, relative_position_index((2, 3)))
    for i, row in enumerate(window_by_pairs(2, 3)):
        for j, place in enumerate(row):
            assert torch.equal(bias[:, i, j], table[place])

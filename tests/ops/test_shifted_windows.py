"""Laws of shifted windows: put together they are the map, and regions part what was rolled."""

import pytest
import torch

from hybrid_backbones.ops.window_attention.shifted_windows import (
    join_shifted_windows,
    partition_shifted_windows,
    window_regions,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (4, 13), (3, 7), (2, 2), (1, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_windows_put_together_are_the_map(size, shift):
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    windows = partition_shifted_windows(x, 3, shift)
    num_windows = -(-size[0] // 3) * -(-size[1] // 3)
    assert windows.shape == (2, num_windows, 9, 5)
    assert torch.equal(join_shifted_windows(windows, 3, shift, size), x)


def test_whole_windows_need_no_regions():
    assert window_regions((6, 9), 3, 0, CPU) is None
    assert window_regions((7, 9), 3, 0, CPU) is not None
    assert window_regions((6, 9), 3, 1, CPU) is not None


def test_regions_part_what_was_rolled_from_the_other_end():
    # rows 2 to 4 of a window, then row 0 and 1 in the last one, after a row of padding
    regions = window_regions((5, 3), 3, 2, CPU)
    assert regions.shape == (2, 9)
    first, last = regions.view(2, 3, 3)
    # column 2, then columns 0 and 1
    assert len(first.unique()) == 2
    assert torch.equal(first, first[:1, [0, 1, 1]].expand(3, 3))
    assert last[0].tolist() == [0, 0, 0]
    assert torch.equal(last[1], last[2])
    assert not set(last[1].tolist()) & set(first.flatten().tolist())

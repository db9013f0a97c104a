"""The regions and routes of bi-level routing attention, from one call of the operator."""

from typing import NamedTuple

from torch import Tensor

from ..ops.biformer import (
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    pad_regions,
    route_regions,
)
from ..ops.windows import partition_windows, valid_positions
from .capture import Call

ROUTED = BiLevelRoutingAttention | BiLevelRoutingAttention2d


class Routing(NamedTuple):
    """Regions of a map, ordered row by row, and those that each of them attends to."""

    query: Tensor  # (B, R', T, C)
    key: Tensor  # (B, R, T, C), with the regions that are padding only
    routes: Tensor  # (B, R', k), best first
    window: tuple[int, int]  # rows and columns of a region, in positions
    columns: tuple[int, int]  # regions in a row of the map: of queries and of keys


def region_size(module: ROUTED, size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of one region on a map of H×W positions."""
    sides = module.num_windows
    if isinstance(module, BiLevelRoutingAttention2d):
        return max(size[0] // sides, 1), max(size[1] // sides, 1)
    return -(-size[0] // sides), -(-size[1] // sides)


def region_columns(module: ROUTED, size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of regions in a row of a map of H×W positions: of queries and of keys."""
    columns = -(-size[1] // region_size(module, size)[1])
    # this form also has regions of padding only, to which others may attend
    return columns, module.num_windows if isinstance(module, BiLevelRoutingAttention) else columns


def find_routing(call: Call) -> Routing:
    """Recompute the regions and routes of a call."""
    module, size = call.module, tuple(call.inputs[0].shape[2:])
    assert isinstance(module, ROUTED)
    window, columns = region_size(module, size), region_columns(module, size)
    valid_mask = None
    if isinstance(module, BiLevelRoutingAttention):
        query, key, _ = call.inner["qkv.qkv"][-1].chunk(3, -1)
        # keys of regions of padding only, which are not projected, are the bias
        padding = module.qkv.get_parameter("qkv.bias").chunk(3)[1]
        key = pad_regions(key.unflatten(1, (-1, columns[0])), columns[1], padding).flatten(1, 2)
    else:
        maps = call.inner["qkv_linear"][-1].permute(0, 2, 3, 1)
        query, key, _ = partition_windows(maps, window).chunk(3, -1)
        valid_mask = valid_positions(size, window, maps.device)
    routes = route_regions(query, key, min(module.topk, key.shape[1]), valid_mask)
    return Routing(query, key, routes, window, columns)

"""What LocFormer sees of its sketches; imported only for its models, as they need mmdet."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import to_tokens
from ..locformer.backbone import RAMBlock
from ..locformer.fusion import StageFusion, map_positions
from .capture import Call
from .one_query import Position, one_query
from .weights import in_window


def record_fusion(call: Call) -> dict[str, Tensor]:
    """Return the attention from image to sketch positions, ``(B, Q, H, W, H', W')``."""
    assert isinstance(call.module, StageFusion)
    return dict(sketch_attention=call.module.attention(*call.inputs))


def fusion_weights(call: Call, position: Position) -> Tensor:
    """Compute the weights of an image position on the sketches, one below the other.

    Returns:
        weights ``(B, h, Q·H', W')``, which sum to 1 over all Q sketches.
    """
    module, (x, sketch) = call.module, call.inputs
    assert isinstance(module, StageFusion)
    cross = module.fusion.self_attn
    (to_query, to_key, _), (query_bias, key_bias, _) = (
        parameter.chunk(3) for parameter in (cross.in_proj_weight, cross.in_proj_bias)
    )
    place = position[0] * x.shape[3] + position[1]
    query = F.linear((to_tokens(x) + map_positions(x))[:, place], to_query, query_bias)
    sketches = module.project(sketch)
    keys = F.linear(to_tokens(sketches) + map_positions(sketches), to_key, key_bias)
    maps = [
        one_query(query, one, cross.num_heads).unflatten(2, sketches.shape[3:])
        for one in keys.unbind(1)
    ]
    # attended values of several sketches are averaged
    return torch.cat(maps, 2) / len(maps)


def patch_weights(call: Call, position: Position) -> Tensor:
    """Compute the weights of a patch within its window of a map with zeros to whole windows."""
    block = call.module
    assert isinstance(block, RAMBlock)
    attn = block.attn
    # the projection takes maps of patches, and then tokens
    (maps,) = (out for out in call.inner["attn.qkv"] if out.ndim == 4)
    query, key, _ = maps.chunk(3, -1)
    window = (attn.window_size, attn.window_size)
    return in_window(
        *(query, key, position, attn.num_heads, window),
        shift=attn.shift,
        bias=attn.relative_position_bias(),
    )


RECORDERS: dict[type[nn.Module], Callable[[Call], dict[str, Tensor]]] = {StageFusion: record_fusion}
OPERATORS: dict[type[nn.Module], tuple[str, Callable[[Call, Position], Tensor]]] = {
    RAMBlock: ("attn", patch_weights),
    StageFusion: ("", fusion_weights),
}

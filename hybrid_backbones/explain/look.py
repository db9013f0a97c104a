"""Where a position of a module's map looks."""

import operator
import sys
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .capture import Call, Images, run, watching
from .one_query import Position
from .weights import OPERATORS

Weigh = Callable[[Call, Position], Tensor]


def attending_modules(model: nn.Module) -> dict[str, tuple[nn.Module, Weigh]]:
    """Find the modules of a model whose attention can be looked at.

    Returns:
        by path of the attention, the module whose call tells its weights, and the function from
        that call and a position to the weights.
    """
    operators = OPERATORS
    # who has a LocFormer has imported it
    if "hybrid_backbones.locformer" in sys.modules:
        from .sketches import OPERATORS as SKETCHES

        operators = {**OPERATORS, **SKETCHES}
    return {
        ".".join(filter(None, (path, inside))): (module, weigh)
        for path, module in model.named_modules()
        for kind, (inside, weigh) in operators.items()
        if isinstance(module, kind)
    }


def attention(model: nn.Module, images: Images, module: str, position: Sequence[int]) -> Tensor:
    """Compute how much one position of a module's map attends to every other position.

    The weights are recomputed from what the operator receives when the model runs on the images,
    as for :func:`record`. Where the operator is a softmax, they are zero or more and sum to 1, and
    weighting its values by them gives its output before the projection. Others are

    - X-volution: products of query and shifted key, of either sign, not normalised;
    - SwiftFormer: one head, of weights of tokens in the global query that all positions share, with
      a sum of squares of 1; in the first release, 1 everywhere;
    - UniFormer's local aggregator: its learned kernel, one head for each channel;
    - UniFormerLight: the class token is no position, so its share is missing from the sum; what the
      representative token gets is spread over the tokens it represents, as these make it up.

    Reflected positions of ACmix, which occur twice, add up.

    Args:
        model: backbone, or detector, segmentor or classifier, whose backbone alone runs; or any
            module with such operators.
        images: batch of images ``(B, 3, H, W)``, or a tuple of all arguments of the model.
        module: path of the attention in the model, such as ``'stages.2.0.attn'``.
        position: row and column ``(y, x)`` in the map that this module returns.

    Returns:
        weights ``(B, h, H, W)`` of each head on the map that the position attends to, zero where it
        cannot see. This map is larger than that of the positions if the operator has a stride, or
        attends to padding at the right and the bottom as published (BiFormer, MixFormer,
        UniFormer's windows); for LocFormer's fusions it is that of the sketches, one below the
        other.

    Raises:
        ValueError: if there is no such module or position, or the model does not take the images.
    """
    modules = attending_modules(model)
    if module not in modules:
        there = ", ".join(map(repr, modules)) or "none in this model"
        raise ValueError(f"no attention at module={module!r}; there is: {there}")
    owner, weigh = modules[module]
    found: list[Tensor] = []

    def see(path: str, call: Call) -> None:
        size = tuple(getattr(call.output, "map", call.output).shape[2:])
        found.append(weigh(call, require_position(position, size, path)))

    with watching({module: owner}, see):
        run(model, images)
    if not found:
        raise ValueError(f"the model does not run its module {module!r} on images")
    return found[-1]


def require_position(position: Sequence[int], size: tuple[int, ...], module: str) -> Position:
    """Check a position of a module's map of the given size.

    Raises:
        ValueError: if it is no pair of integers, or lies outside the map.
    """
    try:
        y, x = map(operator.index, position)
    except (TypeError, ValueError) as error:
        raise ValueError(f"position must be two integers (y, x), got {position!r}") from error
    if not (0 <= y < size[0] and 0 <= x < size[1]):
        raise ValueError(
            f"position (y, x) must lie in the {size[0]}×{size[1]} positions of {module!r}, "
            f"counted from 0, got {(y, x)}"
        )
    return y, x

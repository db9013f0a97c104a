"""Optimizer whose state is divided among the processes of a training (ZeRO, stage 1)."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import is_distributed
from mmengine.optim import ZeroRedundancyOptimizer
from mmengine.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class ShardedOptimizer(ZeroRedundancyOptimizer):
    """Optimizer of which each process keeps and updates a part, and has the result of all parts.

    Rajbhandari et al., "ZeRO", SC 2020, https://arxiv.org/abs/1910.02054. The weights are those of
    the whole optimizer bit for bit. MMEngine's class waits forever when a checkpoint is saved: it
    collects the parts then, which takes all processes, but only the first one saves.

    Args:
        params: parameters, or groups of them.
        optimizer_type: name of a class of `torch.optim`, such as ``'AdamW'``.
        **kwargs: arguments of that class.

    Raises:
        ValueError: if there are no other processes.
    """

    def __init__(self, params, optimizer_type: str, **kwargs):
        if not is_distributed():
            raise ValueError(
                "ShardedOptimizer divides its state among processes, but there is one: start the "
                f"training with a --launcher, or set optim_wrapper.optimizer.type={optimizer_type} "
                "and leave optimizer_type out"
            )
        super().__init__(params, optimizer_type, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :func:`collect_state` has brought to the first process."""
        return super(ZeroRedundancyOptimizer, self).state_dict()


def undivided_type(optimizer: Any) -> Any:
    """Return the type of an optimizer from its settings, whether its state is divided or not.

    It is None if they do not say.
    """
    settings = optimizer if isinstance(optimizer, Mapping) else {}
    is_divided = settings.get("type") == ShardedOptimizer.__name__
    return settings.get("optimizer_type" if is_divided else "type")


def divided_like(model: Mapping, optimizer: Mapping) -> dict[str, Any]:
    """Return the settings of an optimizer, its state divided where that of a model optimizer is.

    Saved states are whole, so that one can go on from the other's.

    Args:
        model: settings of an optimizer of the same type.
        optimizer: settings of the optimizer.
    """
    kind, name = undivided_type(optimizer), ShardedOptimizer.__name__
    rest = {k: v for k, v in optimizer.items() if k not in ("type", "optimizer_type")}
    if model["type"] == name:
        return dict(type=name, optimizer_type=kind, **rest)
    return dict(type=kind, **rest)


def collect_state(optim_wrapper) -> None:
    """Bring all parts of a sharded optimizer's state to the first process, to be saved there.

    All processes must call this.

    Raises:
        ValueError: if the optimizer is MMEngine's.
    """
    optimizer = optim_wrapper.optimizer
    if isinstance(optimizer, ShardedOptimizer):
        optimizer.consolidate_state_dict(to=0)
    elif isinstance(optimizer, ZeroRedundancyOptimizer):
        raise ValueError(
            "MMEngine's ZeroRedundancyOptimizer cannot be saved: set "
            "optim_wrapper.optimizer.type=ShardedOptimizer, which takes the same arguments"
        )

"""What can be counted on any device: memory kept for the backward pass, and operations."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..ops.device_choices import as_on_gpu

# operations that return uninitialised memory, a view that the schema does not mark, or a dtype
LAUNCH_NOTHING = {
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"),
    *("_unsafe_view", "promote_types"),
}

# kernels of Triton that each of our operators launches
KERNELS = {
    **{"local_attention": 1, "local_attention_backward": 2},
    **{"routed_attention": 1, "routed_attention_backward": 3},
    "pixel_shift_attention": 1,
}


def kept_bytes(function: Callable[[], Any], weights: Iterable[Tensor] = ()) -> int:
    """Count the bytes of what autograd saves in a call, each storage once.

    A storage counts in full, also where only a view of it is saved, because it stays allocated.

    Args:
        function: function whose backward pass is not run.
        weights: tensors that stay allocated anyway, and do not count.
    """
    return sum(kept_by_layer(function, {}, weights).values())


def kept_by_layer(
    function: Callable[[], Any], layers: Mapping[str, nn.Module], weights: Iterable[Tensor] = ()
) -> dict[str, int]:
    """Count the bytes of :func:`kept_bytes` by the layer that saves them.

    Args:
        function: function whose backward pass is not run.
        layers: modules by name; what is saved in several, one within the other, counts for the
            innermost.
        weights: tensors that do not count.

    Returns:
        bytes that each layer is the first to save, in the order of the first savings; those of no
        layer under ``"others"``.
    """
    others = {x.untyped_storage()._cdata for x in weights}
    kept: dict[int, Any] = {}
    sums: Counter[str] = Counter()
    running = ["others"]

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in others and storage._cdata not in kept:
            kept[storage._cdata] = storage  # alive, so that no later storage has its address
            sums[running[-1]] += storage.nbytes()
        return x

    with ExitStack() as hooks:
        for name, layer in layers.items():
            enter = layer.register_forward_pre_hook(lambda *_, name=name: running.append(name))
            leave = layer.register_forward_hook(lambda *_: running.pop() and None)
            hooks.callback(enter.remove)
            hooks.callback(leave.remove)
        hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x))
        function()
    return dict(sums)


def count_launches(function: Callable[[], Any]) -> int:
    """Count the operations of a call that launch kernels on a GPU, after a warm-up call.

    These are PyTorch's operations, those of the backward pass included, except views and
    allocations, and Triton's kernels. Operators choose as on a GPU, also where there is none: their
    Triton kernels then count without being run, and the results of `function` are wrong.
    """
    with as_on_gpu():
        with _CountLaunches():
            function()  # fills the tables that depend on sizes only
        with _CountLaunches() as counter:
            function()
    return counter.launches


class _CountLaunches(TorchDispatchMode):
    launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if func.namespace == "hybrid_backbones":
            self.launches += KERNELS[name]
            return zeros_like_outputs(func, args)
        self.launches += not (func.is_view or name in LAUNCH_NOTHING)
        return func(*args, **(kwargs or {}))


def zeros_like_outputs(function: Callable, args: tuple) -> Any:
    """Return zeros of the shapes and layouts that ``function(*args)`` has, without computing it."""

    def describe(x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")

    device = next(x.device for x in args if isinstance(x, Tensor))
    outs = function(*tree_map_only(Tensor, describe, args))
    return tree_map_only(Tensor, lambda x: torch.zeros_like(x, device=device), outs)

"""Recomputation in the backward pass of what is cheap to compute, instead of keeping it."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_before_last(
    function: Callable[..., Any], *inputs: Tensor, modules: Iterable[nn.Module] = ()
) -> Any:
    """Compute ``function(*inputs)``, whose last operation keeps only `inputs` for its gradient.

    The last operation, such as a convolution, is costly; those before it, such as normalisation and
    activation, are cheap and run again in the backward pass, up to what the last one keeps. The
    values, and gradients of any order, are those of ``function(*inputs)``. It is called as it is
    without gradients, by `torch.compile`, which decides itself what to compute again, in other
    traces, and in transforms of `torch.func`, which have no hooks for saved tensors.

    Args:
        function: deterministic function; all maps that it takes are among `inputs`.
        inputs: maps, which are kept.
        modules: all modules that `function` calls. They run again with the weights and modes of the
            forward pass, which `torch.func.functional_call` and :meth:`nn.Module.eval` may have
            changed meanwhile, and running statistics stay as they are.

    Raises:
        RuntimeError: in the backward pass, if a weight was changed in place since the forward pass,
            as by the step of an optimizer; autograd refuses that, too, of what it keeps.
    """
    if not torch.is_grad_enabled() or is_transformed():
        return function(*inputs)
    modules = tuple(modules)
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _AsInForward(modules)),
    )


def is_transformed() -> bool:
    """Return whether a compiler, a trace or a transform of `torch.func` sees the operations."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_func()


def is_in_torch_func() -> bool:
    """Return whether a transform of `torch.func`, such as ``grad``, sees the operations."""
    # the compiler cannot trace the question
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


class _AsInForward:
    """Context in which modules have the weights and modes that they have where it is made.

    It leaves running statistics unchanged, because it sees a batch again. A graph that is retained
    enters it more than once.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self.forward = [_state_of(inner) for module in modules for inner in module.modules()]
        self.versions = [(x, x._version) for state in self.forward for x in _constants_of(*state)]
        self.before: list[tuple] = []
        self.kept: list[tuple] = []

    def __enter__(self) -> None:
        if any(x._version != version for x, version in self.versions):
            raise RuntimeError(
                "a weight was changed in place between a forward pass and its backward pass, which "
                "computes the forward pass again: step the optimizer after the backward pass"
            )
        self.before = [_state_of(module) for module, *_ in self.forward]
        _set_states(self.forward)
        self.kept = [
            (norm, norm.momentum, count, count.clone())
            for norm, *_ in self.forward
            if isinstance(norm, _BatchNorm)
            and norm.training
            and (count := norm.num_batches_tracked) is not None
        ]
        for norm, *_ in self.kept:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum, count, number in self.kept:
            norm.momentum = momentum
            count.copy_(number)
        _set_states(self.before)


def _state_of(module: nn.Module) -> tuple[nn.Module, bool, dict, dict]:
    """Return a module with its mode, parameters and buffers, of which no values are copied."""
    return module, module.training, {**module._parameters}, {**module._buffers}


def _constants_of(
    module: nn.Module, training: bool, parameters: dict, buffers: dict
) -> list[Tensor]:
    """Return the tensors of a module that its forward pass does not change."""
    return [
        x for x in (*parameters.values(), *({} if training else buffers).values()) if x is not None
    ]


def _set_states(states: Iterable[tuple[nn.Module, bool, dict, dict]]) -> None:
    for module, training, parameters, buffers in states:
        module.training = training
        module._parameters.update(parameters)
        module._buffers.update(buffers)


def recompute(function: nn.Module, x: Any) -> Any:
    """Compute ``function(x)``, and all of it again in the backward pass."""
    return checkpoint(
        function,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _AsInForward([function])),
    )

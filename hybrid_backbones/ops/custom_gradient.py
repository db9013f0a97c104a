"""Functions with custom gradients that support autograd and `torch.func`.

They are defined by two plain functions, one for the result and one for the gradients. Only the
inputs are saved for the backward pass, before the result is computed: if `torch.utils.checkpoint`
computes them again and keeps nothing later, it stops there and does not compute the result again.

`torch.func` supports ``grad``, ``vjp`` and ``jacrev``, and ``vmap`` around any of these, which
computes the slices one by one. Forward-mode derivatives (``jvp``, ``jacfwd``, ``hessian``) are not
supported: PyTorch raises `NotImplementedError`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..recompute import is_transformed


def with_gradient(function: Callable, gradient: Callable, *inputs: Any) -> Tensor:
    """Compute ``function(*inputs)`` with a backward pass given by `gradient`.

    Both compute in the dtype of their inputs, also under autocast. `torch.jit.trace` cannot
    serialise Python autograd functions, so it records the operations of `function`.

    Args:
        function: function from the inputs to a tensor that is not a view of them.
        gradient: function from the gradient of the result and the inputs to a tuple of gradients of
            the first inputs; the remaining inputs get none. Autograd differentiates it for second
            derivatives.
        inputs: arguments of `function`, at least one of them a tensor; collections of tensors are
            not supported.

    Returns:
        Result of `function`.
    """
    if torch.jit.is_tracing() or (torch.compiler.is_compiling() and not _has_gradient(inputs)):
        return _call(function, *inputs)
    if _has_gradient(inputs) and not is_transformed():
        kept = _Keep.apply(*inputs)
        # integers have no node
        keeper = next(x.grad_fn for x in kept if isinstance(x, Tensor) and x.requires_grad)
        # of the inputs themselves, as sides of one have other strides in `kept`
        compute = partial(_call, function, *inputs)
        return _ResultOfKept.apply(compute, gradient, keeper, *kept)
    return _Function.apply(function, gradient, *inputs)


def _call(function: Callable, *inputs: Any) -> Any:
    device = next(x.device.type for x in inputs if isinstance(x, Tensor))
    # autocast rejects the meta device, and `torch.compile` cannot trace its list of devices
    if device == "meta":
        return function(*inputs)
    with torch.autocast(device, enabled=False):
        return function(*inputs)


class _Transformable(torch.autograd.Function):
    """Autograd function that saves all inputs and computes the slices of `vmap` one by one."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save(ctx, inputs)

    @classmethod
    def vmap(cls, info, in_dims, *inputs):
        slices = [
            cls.apply(
                *(
                    x.select(dim, i) if isinstance(dim, int) else x
                    for x, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(slices[0], Tensor):
            return torch.stack(slices), 0
        return tuple(map(torch.stack, zip(*slices, strict=True))), (0,) * len(slices[0])


class _Keep(torch.autograd.Function):
    """Identity, which saves all inputs."""

    @staticmethod
    def forward(ctx, *inputs):
        _save(ctx, inputs)
        ctx.set_materialize_grads(False)
        return inputs

    @staticmethod
    def backward(ctx, *grads):
        return grads


class _ResultOfKept(torch.autograd.Function):
    """The result of ``compute()`` as a function of what the node `keeper` of a `_Keep` saved."""

    @staticmethod
    def forward(ctx, compute, gradient, keeper, *kept):
        ctx.gradient, ctx.keeper = gradient, keeper
        return compute()

    @staticmethod
    def backward(ctx, grad):
        inputs = _inputs(ctx.keeper)
        grads = _Gradient.apply(ctx.gradient, grad, *inputs)
        return None, None, None, *grads, *[None] * (len(inputs) - len(grads))


class _Function(_Transformable):
    @staticmethod
    def forward(function, gradient, *inputs):
        out = _call(function, *inputs)
        # PyTorch 2.11 compiles gradients of zero, without a warning, where it is written in place
        return out.clone() if torch.compiler.is_compiling() else out

    @staticmethod
    def backward(ctx, grad):
        _, gradient, *inputs = _inputs(ctx)
        # compiled code has no second derivatives
        compute = _call if torch.compiler.is_compiling() else _Gradient.apply
        grads = compute(gradient, grad, *inputs)
        return None, None, *grads, *[None] * (len(inputs) - len(grads))


class _Gradient(_Transformable):
    """A derivative of any order, whose own backward pass is one of the next order."""

    @staticmethod
    def forward(gradient, *inputs):
        return _call(gradient, *inputs)

    @staticmethod
    def backward(ctx, *grads):
        gradient, *inputs = _inputs(ctx)
        places = [i for i, x in enumerate(inputs) if _is_differentiable(x)]
        num_grads = len(grads)

        def pull_back(*values):
            grads, inputs = values[:num_grads], values[num_grads:]

            def compute(*tensors):
                given = dict(zip(places, tensors, strict=True))
                return _call(gradient, *(given.get(i, x) for i, x in enumerate(inputs)))

            return torch.func.vjp(compute, *(inputs[i] for i in places))[1](grads)

        pulled = dict(zip(places, _Gradient.apply(pull_back, *grads, *inputs), strict=True))
        return None, *(pulled.get(i) for i in range(len(inputs)))


def _has_gradient(inputs: tuple) -> bool:
    tensors = (x for x in inputs if isinstance(x, Tensor))
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _save(ctx, inputs: tuple) -> None:
    ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in inputs))
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]


def _inputs(ctx) -> list[Any]:
    """Return what :func:`_save` has saved."""
    saved = zip(ctx.saved_tensors, ctx.others, strict=True)
    return [other if tensor is None else tensor for tensor, other in saved]


def _is_differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()

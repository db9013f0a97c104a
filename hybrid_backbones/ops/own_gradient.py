"""Functions with a gradient of their own: how they take part in autograd and in `torch.func`.

Two plain functions are enough, one for the result and one for the gradients. Of a call nothing is
kept but its inputs, and `torch.func` transforms it as it does an operator of PyTorch: ``grad``,
``vjp``, ``jacrev``, and ``vmap`` around any of these, which computes one slice after another.
Forward-mode derivatives (``jvp``, ``jacfwd``, ``hessian``) there are none: PyTorch says so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_gradient(function: Callable, gradient: Callable, *inputs: Any) -> Tensor:
    """Compute ``function(*inputs)``, to be differentiated by `gradient`.

    Both compute in the dtype of their inputs, under autocast too. A saved trace takes no functions
    of Python, so that `torch.jit.trace` records what `function` does.

    Args:
        function: maps the inputs to a tensor that is no view of them.
        gradient: maps the gradient of the result and the inputs to a tuple of gradients, one for
            each of the first inputs; the others have none. It is differentiated by autograd.
        inputs: tensors, and anything but collections of tensors.
    """
    if torch.jit.is_tracing() or (torch.compiler.is_compiling() and not _has_gradient(inputs)):
        return _call(function, *inputs)
    return _Function.apply(function, gradient, *inputs)


def _call(function: Callable, *inputs: Any) -> Any:
    device = next(x.device.type for x in inputs if isinstance(x, Tensor))
    if device == "meta":  # which has no autocast to switch off
        return function(*inputs)
    with torch.autocast(device, enabled=False):
        return function(*inputs)


class _Transformable(torch.autograd.Function):
    """Keep all inputs, and let `vmap` compute one slice after another."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in inputs))
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]

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


class _Function(_Transformable):
    @staticmethod
    def forward(function, gradient, *inputs):
        out = _call(function, *inputs)
        # PyTorch 2.11 compiles gradients of zero, without a warning, where it is written in place
        return out.clone() if torch.compiler.is_compiling() else out

    @staticmethod
    def backward(ctx, grad):
        _, gradient, *inputs = _inputs(ctx)
        # what is compiled has no second derivatives
        compute = _call if torch.compiler.is_compiling() else _Gradient.apply
        grads = compute(gradient, grad, *inputs)
        return None, None, *grads, *[None] * (len(inputs) - len(grads))


class _Gradient(_Transformable):
    @staticmethod
    def forward(gradient, *inputs):
        return _call(gradient, *inputs)

    @staticmethod
    def backward(ctx, *grads):
        gradient, *inputs = _inputs(ctx)
        places = [i for i, x in enumerate(inputs) if _is_differentiable(x)]

        def compute(*tensors):
            given = dict(zip(places, tensors, strict=True))
            return _call(gradient, *(given.get(i, x) for i, x in enumerate(inputs)))

        _, pull_back = torch.func.vjp(compute, *(inputs[i] for i in places))
        pulled = dict(zip(places, pull_back(grads), strict=True))
        return None, *(pulled.get(i) for i in range(len(inputs)))


def _has_gradient(inputs: tuple) -> bool:
    tensors = (x for x in inputs if isinstance(x, Tensor))
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _inputs(ctx) -> list[Any]:
    saved = zip(ctx.saved_tensors, ctx.others, strict=True)
    return [other if tensor is None else tensor for tensor, other in saved]


def _is_differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()

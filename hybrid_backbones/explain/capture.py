"""Run a network once and see the calls of some of its modules, leaving everything as it was.

Hooks exist only during the run, so a network that is not being examined is neither changed nor
slowed down.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# images (B, 3, H, W), or all arguments of a network that takes more
Images = Tensor | tuple[Any, ...]


class Call(NamedTuple):
    """What a module received and returned."""

    module: nn.Module
    inputs: tuple[Any, ...]
    output: Any
    # outputs of its submodules by name, in the order of their calls
    inner: Mapping[str, list[Any]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of every module afterwards.

    The flags are set one by one, because `train` of a network may also freeze parameters.
    """
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def watching(modules: Mapping[str, nn.Module], see: Callable[[str, Call], None]) -> Iterator[None]:
    """Hand every call of some modules to a function, within the context.

    Args:
        modules: modules by the name under which their calls are handed over.
        see: function of that name and the call.
    """
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        inner: dict[str, list[Any]] = {}
        for part, submodule in module.named_modules():
            if part:
                hooks.append(
                    submodule.register_forward_hook(
                        lambda _, args, output, part=part: inner.setdefault(part, []).append(output)
                    )
                )

        def finish(module: nn.Module, args: tuple, output: Any) -> None:
            see(name, Call(module, args, output, dict(inner)))
            inner.clear()

        hooks.append(module.register_forward_hook(finish))

    try:
        for name, module in modules.items():
            watch(name, module)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def network_of(model: nn.Module, images: Images) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return what is run on images, and its arguments.

    Of a detector, segmentor or classifier this is the backbone; with a tuple of arguments, it is
    the model itself.

    Raises:
        ValueError: if the images are no batch of images, or the network takes other arguments.
    """
    arguments = images if isinstance(images, tuple) else (images,)
    backbone = None if isinstance(images, tuple) else getattr(model, "backbone", None)
    network = backbone if isinstance(backbone, nn.Module) else model
    first = arguments[0] if arguments else None
    if not isinstance(first, Tensor) or first.ndim != 4 or not first.is_floating_point():
        got = f"{first.dtype} {tuple(first.shape)}" if isinstance(first, Tensor) else type(first)
        raise ValueError(f"images must be a floating-point tensor (B, 3, H, W), got {got}")
    try:
        inspect.signature(network.forward).bind(*arguments)
    except TypeError as error:
        names = ", ".join(inspect.signature(model.forward).parameters)
        raise ValueError(
            f"{type(model).__name__} takes other arguments ({error}): pass a tuple of ({names})"
        ) from error
    return network, arguments


def run(model: nn.Module, images: Images) -> None:
    """Run a model on images in evaluation mode and without gradients, for the hooks on it.

    Raises:
        ValueError: if :func:`network_of` refuses the images.
    """
    network, arguments = network_of(model, images)
    # compiled code would not call new hooks
    eager = torch.compiler.set_stance("force_eager")
    with torch.no_grad(), evaluating(model), eager:
        network(*arguments)

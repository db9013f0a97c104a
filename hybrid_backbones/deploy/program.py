"""Recording of networks as programs of `torch.export`, for one size or any."""

import torch
from torch import Tensor, nn

from .runtime import first_line

# at which graphs for any size are recorded: every map of a network has several windows, and no side
# is a multiple of a window's or equals another, so no branch is taken for a coincidence
GENERIC_SIZE = (1031, 1287)


def capture(
    model: nn.Module, inputs: tuple[Tensor, ...], *, dynamic: bool, single: bool = False
) -> torch.export.ExportedProgram:
    """Record a model as a program of `torch.export`.

    Args:
        model: model from a batch of images, and further inputs, to tensors.
        inputs: images, of which a dynamic program needs at least two, and the further inputs.
        dynamic: whether the program takes any batch and size.
        single: whether a dynamic program takes one image at a time.

    Raises:
        ValueError: if PyTorch cannot export the model; the message gives its reason.
    """
    if dynamic:
        images, *others = inputs
        inputs = (images.new_empty(*images.shape[:2], *GENERIC_SIZE), *others)
    any_size = torch.export.Dim.DYNAMIC
    sizes = {2: any_size, 3: any_size} | ({} if single else {0: any_size})
    # as `Tupled` takes them
    shapes = ((sizes, *({0: any_size} for _ in inputs[1:])),) if dynamic else None
    try:
        # a cache that takes more time than it saves where every shape is a new expression
        with torch.no_grad(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            program = torch.export.export(
                model,
                inputs,
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ValueError(
            f"PyTorch cannot export the model{' with dynamic sizes' if dynamic else ''}: "
            f"{first_line(error)}; try another size, or the backbone alone"
        ) from error
    remove_assertions(program)
    return program


def remove_assertions(program: torch.export.ExportedProgram) -> None:
    """Remove what a program asserts of sizes, in place.

    While it was recorded, PyTorch asked whether sizes coincide, such as for the order in memory,
    and asserts that they do not. The operators do not need it, and ONNX files have no assertions; a
    file is compared at several sizes before it is kept.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()

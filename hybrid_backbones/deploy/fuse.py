"""Networks and exported programs with fewer operations, which compute the same up to rounding.

In evaluation mode a batch norm after a convolution is part of it, and what is computed from weights
alone, such as the product of ACmix's two kernels, is a weight itself.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..ops.xvolution import XVolution, merge_xvolutions

CONVOLUTION, BATCH_NORM = torch.ops.aten.conv2d.default, torch.ops.aten.batch_norm.default
# inputs of a program that are stored with it
KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
# a result that is larger than this many times its inputs stays a computation, so that files do not
# grow; composed kernels of ACmix are 4/3 as large
GROWTH = 2


def merge_branches(model: nn.Module) -> int:
    """Merge the X-volutions inside a network, if they can be merged, and return how many."""
    operators = [module for module in model.modules() if isinstance(module, XVolution)]
    if operators and all(x.attention == "shift" for x in operators) and operators[0] is not model:
        return merge_xvolutions(model)
    return 0


def fuse_program(program: ExportedProgram) -> dict[str, int]:
    """Fold batch norms and products of weights in a program of a model in evaluation mode.

    Returns:
        numbers of ``batch_norms`` and ``weights`` that were folded.
    """
    weights = _Weights(program)
    done = dict(
        batch_norms=sum(_fold_batch_norms(program, weights)),
        weights=sum(_fold_weights(program, weights)),
    )
    program.graph.eliminate_dead_code()
    weights.remove_unused()
    program.graph.lint()
    program.graph_module.recompile()
    return done


class _Weights:
    """The weights of a program: the tensor of each placeholder."""

    def __init__(self, program: ExportedProgram):
        self.program = program
        self.specs: dict[Node, InputSpec] = dict(
            zip(
                (node for node in program.graph.nodes if node.op == "placeholder"),
                program.graph_signature.input_specs,
                strict=True,
            )
        )
        stored = {**program.constants, **program.state_dict}
        self.values: dict[Node, Tensor] = {
            node: stored[spec.target].detach()
            for node, spec in self.specs.items()
            if spec.kind in KINDS and spec.target is not None
        }

    def add(self, value: Tensor, like: Node) -> Node:
        """Add a weight, named after the node that it replaces."""
        graph, number = self.program.graph, len(self.specs)
        first = next(iter(self.specs))
        with graph.inserting_before(first):
            node = graph.placeholder(f"b_folded_{number}")
        node.meta["val"] = like.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
        target = f"folded_{number}"
        self.program.state_dict[target] = value
        spec = InputSpec(InputKind.BUFFER, TensorArgument(node.name), target, persistent=True)
        self.program.graph_signature.input_specs.insert(0, spec)
        self.specs = {node: spec, **self.specs}
        self.values[node] = value
        return node

    def remove_unused(self) -> None:
        """Remove the weights that no operation takes."""
        for node in [node for node in self.values if not node.users]:
            spec = self.specs.pop(node)
            self.program.graph_signature.input_specs.remove(spec)
            assert spec.target is not None
            if not any(other.target == spec.target for other in self.specs.values()):
                self.program.state_dict.pop(spec.target, None)
                self.program.constants.pop(spec.target, None)
            self.program.graph.erase_node(node)


def _fold_batch_norms(program: ExportedProgram, weights: _Weights) -> Iterator[int]:
    """Fold each batch norm whose input is a convolution that nothing else reads."""
    for norm in program.graph.find_nodes(op="call_function", target=BATCH_NORM):
        conv = norm.args[0]
        if conv.target is not CONVOLUTION or len(conv.users) > 1:
            continue
        conv_args, norm_args = _arguments(conv), _arguments(norm)
        if norm_args["training"]:
            continue
        taken = [conv_args["weight"], conv_args["bias"]]
        taken += [norm_args[name] for name in ("running_mean", "running_var", "weight", "bias")]
        if any(node is not None and node not in weights.values for node in taken):
            continue
        tensors: list[Any] = [None if node is None else weights.values[node] for node in taken]
        kernel, bias, mean, var, scale, shift = tensors
        folded = fuse_conv_bn_weights(kernel, bias, mean, var, norm_args["eps"], scale, shift)
        new = [weights.add(value.detach(), conv) for value in folded]
        conv.args = (*{**conv_args, "weight": new[0], "bias": new[1]}.values(),)
        conv.kwargs = {}
        norm.replace_all_uses_with(conv)
        yield 1


def _arguments(node: Node) -> dict[str, Any]:
    """Return all arguments of an operation by their names, with those by default."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = node.target._schema.arguments
    given = {x.name: value for x, value in zip(arguments[: len(node.args)], node.args, strict=True)}
    defaults = {x.name: x.default_value for x in arguments}
    return {**defaults, **given, **node.kwargs}


def _fold_weights(program: ExportedProgram, weights: _Weights) -> Iterator[int]:
    """Replace what is computed from weights alone, where the rest of the graph takes it."""
    computed: dict[Node, Any] = {}
    sizes = {node: value.numel() for node, value in weights.values.items()}

    def evaluate(node: Node) -> Any:
        if node in weights.values:
            return weights.values[node]
        if node not in computed:
            assert callable(node.target)
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), evaluate)
            computed[node] = node.target(*args, **kwargs)
        return computed[node]

    for node in [*program.graph.nodes]:
        inputs = node.all_input_nodes
        if not inputs or not all(x in sizes for x in inputs) or not _is_pure(node):
            continue
        # of the weights below it
        sizes[node] = sum(sizes[x] for x in inputs)
    for node in [*sizes]:
        is_inner = all(user in sizes for user in node.users)
        if node in weights.values or is_inner or _is_changed(node):
            continue
        value = evaluate(node)
        if isinstance(value, Tensor) and value.numel() <= GROWTH * sizes[node]:
            node.replace_all_uses_with(weights.add(value.detach().contiguous(), node))
            yield 1


def _is_pure(node: Node) -> bool:
    """Return whether an operation gives the same for the same inputs and changes nothing."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function" and not node.is_impure()
    is_random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not (is_random or node.target._schema.is_mutable)


def _is_changed(node: Node) -> bool:
    """Return whether an operation writes into the result of another one, or into a view of it."""
    for user in node.users:
        if not isinstance(user.target, torch._ops.OpOverload):
            continue
        schema = user.target._schema
        is_view = any(result.alias_info is not None for result in schema.returns)
        if schema.is_mutable or (is_view and _is_changed(user)):
            return True
    return False

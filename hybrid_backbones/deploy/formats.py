"""The formats of exported files: ONNX, programs of `torch.export`, packages of AOTInductor."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from .runtime import METADATA, PREFIX, first_line

# that of the exporter itself, which the most runtimes read
OPSET = 18


def require_options(path: Path, *, aot: bool, precision: str, resizes: bool) -> None:
    """Check that a format has the options that were chosen for a file.

    Args:
        path: file to write, ``.onnx`` or ``.pt2``.
        aot: whether it is compiled by AOTInductor.
        precision: type of its numbers.
        resizes: whether it resizes images.

    Raises:
        ValueError: if it has not.
    """
    if path.suffix == ".onnx":
        if aot:
            raise ValueError(f"--aot writes packages that end with .pt2, got {path}")
        return
    for option, is_chosen in (("--resize", resizes), ("--int8", precision == "int8")):
        if is_chosen:
            raise ValueError(f"{option} is for ONNX: expected a file that ends with .onnx")


def describe_format(path: Path, *, aot: bool) -> str:
    """Return the name of a file's format."""
    if path.suffix == ".onnx":
        return f"ONNX, opset {OPSET}"
    return "AOTInductor" if aot else "torch.export"


def write_program(program: ExportedProgram, path: Path, notes: dict[str, Any]) -> dict[str, int]:
    """Write a program of `torch.export`, and return how often it uses each operator."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(notes)})
    return _count(program)


def write_package(program: ExportedProgram, path: Path, notes: dict[str, Any]) -> dict[str, int]:
    """Compile a program by AOTInductor, and return how often it uses each operator.

    Raises:
        ValueError: if there is no C++ compiler, or it fails.
    """
    from torch._inductor import aoti_compile_and_package

    try:
        aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {METADATA: json.dumps(notes)}},
        )
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ValueError(
            f"AOTInductor cannot compile the model: {first_line(error)}; it needs a C++ compiler "
            "such as g++, or leave --aot out"
        ) from error
    return _count(program)


def _count(program: ExportedProgram) -> dict[str, int]:
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    return dict(Counter(str(node.target) for node in calls).most_common())


def write_onnx(
    program: ExportedProgram,
    path: Path,
    notes: dict[str, Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    changes: Sequence[Callable[[Any], Any]] = (),
    *,
    optimize: bool = True,
) -> dict[str, int]:
    """Write a program as ONNX, and return how often the file uses each operator.

    Args:
        program: program of `torch.export`.
        path: file to write.
        notes: metadata of the file.
        inputs, outputs: names of the inputs and the outputs.
        changes: functions from the model, an `onnx.ModelProto`, to another one.
        optimize: whether the exporter's own optimiser runs, which breaks some nested clamps.

    Raises:
        ValueError: if an operator has no form in ONNX.
    """
    import onnx
    from onnxscript import opset18
    from torch.onnx import OnnxExporterError

    # its own types do not follow what it records
    op: Any = opset18

    def stable_sort(x: Any, stable: bool = False, dim: int = -1, descending: bool = False) -> Any:
        # TopK puts the first of equal values first
        length = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
        return op.TopK(x, length, axis=dim, largest=int(descending))

    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            optimize=optimize,
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
        )
    except OnnxExporterError as error:
        raise ValueError(
            f"an operator of the model has no form in ONNX: {first_line(error)}; export to .pt2"
        ) from error
    assert exported is not None
    model = exported.model_proto
    for change in changes:
        model = change(model)
    for key, value in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = PREFIX + key, json.dumps(value)
    onnx.save(model, path)
    return dict(Counter(node.op_type for node in model.graph.node).most_common())

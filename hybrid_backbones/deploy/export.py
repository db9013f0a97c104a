"""Export of networks to ONNX and to programs of `torch.export`, compared before they are kept.

A file is written only after its runtime has run it and its outputs are those of PyTorch.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..benchmark.probes import time_call
from ..ops.xvolution import XVolution, merge_xvolutions
from ..training.requirements import require_writable_file
from .compare import INPUT, Outputs, compare, first_line, load_file

# that of the exporter itself, which the most runtimes read
OPSET = 18


class _Tuple(nn.Module):
    """A model whose outputs are always a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Outputs:
        out = self.model(images)
        return (out,) if isinstance(out, Tensor) else tuple(out)


def export_onnx(
    model: nn.Module,
    out: str | Path,
    size: int | Sequence[int] = 224,
    *,
    dynamic: bool = False,
    fuse: bool = True,
    force: bool = False,
    example: Callable[[int, int, int], Tensor] | None = None,
    output_names: Sequence[str] = (),
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Export a model to ONNX, run the file by onnxruntime and compare it with PyTorch.

    The file is written, with the report beside it as ``.json``, if all outputs agree within
    `TOLERANCE`; a dynamic file is compared on three sizes and batches, another one on three images.

    Args:
        model: model from a batch ``(B, 3, H, W)`` to a tensor or several, in evaluation mode.
        out: path of the file, ``.onnx``; with ``.pt2`` a program of `torch.export` is written.
        size: height and width of the images, or one number for both.
        dynamic: whether the file takes any batch and size; otherwise one image of `size`.
        fuse: whether the branches of X-volutions are merged first.
        force: whether an existing file is overwritten.
        example: function from batch, height and width to a batch; None draws random numbers.
        output_names: names of the outputs; by default ``output_0``, ``output_1`` ...
        metadata: entries that the file keeps, written as JSON.

    Returns:
        report: file, format, size, error of each output, milliseconds of PyTorch and of the file.

    Raises:
        ValueError: if a package is missing, the file exists or cannot be written, the model cannot
            be exported or run at this size, or the outputs differ; nothing is written then.
    """
    out, height, width = Path(out), *_read_size(size)
    require_new(out, force=force)
    torch.manual_seed(0)
    make = example or (lambda *shape: torch.randn(shape[0], 3, *shape[1:]))
    model = deepcopy(model).cpu().eval()
    # before anything merges what it is compared with
    expected = _Tuple(deepcopy(model))
    if fuse:
        _fuse(model)
    draft = out.with_name(f".{out.stem}.draft{out.suffix}")
    shapes = [(2 if dynamic else 1, height, width)]
    if dynamic:
        shapes += [(1, height + 32, width), (3, height, width + 67)]
    else:
        shapes *= 3
    batches = [make(*shape) for shape in shapes]
    references = [
        _run(expected, batch, shape) for batch, shape in zip(batches, shapes, strict=True)
    ]
    names = list(output_names) or [f"output_{i}" for i in range(len(references[0]))]
    notes = dict(size=[height, width], dynamic=dynamic, **(metadata or {}))
    try:
        started = time.perf_counter()
        program = capture(_Tuple(model).eval(), batches[0], dynamic=dynamic)
        operators = _write(program, draft, names, notes)
        seconds = time.perf_counter() - started
        run = load_file(draft)
        errors = compare(run, batches, references, names)
        report = dict(
            file=out.name,
            format=f"ONNX, opset {OPSET}" if out.suffix == ".onnx" else "torch.export",
            **notes,
            bytes=draft.stat().st_size,
            export_seconds=round(seconds, 1),
            errors=errors,
            milliseconds=dict(
                pytorch=_milliseconds(lambda: _run(expected, batches[0], shapes[0])),
                file=_milliseconds(lambda: run(batches[0])),
            ),
            operators=operators,
        )
        out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return report


def require_new(out: Path, *, force: bool) -> None:
    """Check before the work that a file can be exported to `out`.

    Raises:
        ValueError: if its format is unknown, a package is missing, or it exists or is unwritable.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"the exported file must end with .onnx or .pt2, got {out}")
    needed = ("onnx", "onnxscript", "onnxruntime") if out.suffix == ".onnx" else ()
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ValueError(
            f"{', '.join(missing)} not installed: pip install 'hybrid-backbones[deploy]'"
        )
    for path in (out, out.with_suffix(".json")):
        if path.exists() and not force:
            raise ValueError(f"{path} exists: choose another name, or overwrite it with --force")
        require_writable_file(path)


def capture(model: nn.Module, batch: Tensor, *, dynamic: bool) -> torch.export.ExportedProgram:
    """Record a model as a program of `torch.export`.

    Args:
        model: model from a batch of images to tensors.
        batch: images, of which a dynamic program needs at least two.
        dynamic: whether the program takes any batch and size.

    Raises:
        ValueError: if PyTorch cannot export the model; the message gives its reason.
    """
    any_size = torch.export.Dim.DYNAMIC
    shapes = ({0: any_size, 2: any_size, 3: any_size},) if dynamic else None
    try:
        # a cache that takes more time than it saves where every shape is a new expression
        with torch.no_grad(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            return torch.export.export(
                model,
                (batch,),
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ValueError(
            f"PyTorch cannot export the model{' with dynamic sizes' if dynamic else ''}: "
            f"{first_line(error)}; try another size, or the backbone alone"
        ) from error


def _fuse(model: nn.Module) -> None:
    """Merge the X-volutions, if they can be merged."""
    operators = [module for module in model.modules() if isinstance(module, XVolution)]
    if operators and all(x.attention == "shift" for x in operators) and operators[0] is not model:
        merge_xvolutions(model)


def _read_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"size must be one or two positive numbers, got {size}")
    return sides[0], sides[1]


@torch.no_grad()
def _run(model: nn.Module, batch: Tensor, shape: tuple) -> Outputs:
    try:
        return model(batch)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the model cannot take images of {shape[1]}x{shape[2]} pixels: {first_line(error)}"
        ) from error


def _write(
    program: torch.export.ExportedProgram, path: Path, names: list[str], notes: dict
) -> dict[str, int]:
    """Write a program as a file, and return how often it uses each operator."""
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={"metadata.json": json.dumps(notes)})
        calls = (node for node in program.graph.nodes if node.op == "call_function")
        return dict(Counter(str(node.target) for node in calls).most_common())
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
            input_names=[INPUT],
            output_names=names,
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
        )
    except OnnxExporterError as error:
        raise ValueError(
            f"an operator of the model has no form in ONNX: {first_line(error)}; export to .pt2"
        ) from error
    assert exported is not None
    for key, value in notes.items():
        exported.model.metadata_props[f"hybrid_backbones.{key}"] = json.dumps(value)
    exported.save(str(path))
    return dict(Counter(node.op_type for node in exported.model.graph).most_common())


def _milliseconds(call: Callable[[], Any]) -> float:
    return round(time_call(call, repeats=5)["median"], 2)


def describe(report: dict[str, Any]) -> str:
    """Return the lines that a command prints about an export."""
    times = report["milliseconds"]
    return "\n".join(
        [
            f"saved to {report['file']}: {report['format']}, {report['bytes'] / 1e6:.1f} MB, "
            f"{sum(report['operators'].values())} operators",
            "any batch and size" if report["dynamic"] else f"only images of {report['size']}",
            f"PyTorch {times['pytorch']} ms, this file {times['file']} ms",
            *(f"largest error of {name}: {error:.1e}" for name, error in report["errors"].items()),
        ]
    )

"""Export of networks to ONNX and to programs of `torch.export`, compared before they are kept.

A file is written only after its runtime has run it and its outputs are those of PyTorch.
"""

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..training.requirements import require_writable_file
from .compare import BOUNDS, BOXES, INPUT, compare, load_file, require_accuracy, wider
from .eager import Half, Predict, Tupled, as_tuple, halve_features, predict, run_model
from .formats import (
    OPSET,
    describe_format,
    require_options,
    write_onnx,
    write_package,
    write_program,
)
from .fuse import fuse_program, merge_branches
from .program import capture
from .report import measure_times
from .runtime import ExportedModel

if TYPE_CHECKING:
    from .resize import Resizing

# what a report says of the smaller types
REMARKS = dict(
    float16="onnxruntime has few kernels of float16 for CPUs, and computes the other operators in "
    "float32 between conversions: expect its speed on other devices"
)


def export_onnx(
    model: nn.Module,
    out: str | Path,
    size: int | Sequence[int] = 224,
    *,
    dynamic: bool = False,
    fuse: bool = True,
    force: bool = False,
    example: Callable[[int, int, int], Tensor | tuple[Tensor, ...]] | None = None,
    single: bool = False,
    input_names: Sequence[str] = (INPUT,),
    output_names: Sequence[str] = (),
    metadata: dict[str, Any] | None = None,
    resizing: "Resizing | None" = None,
    precision: str = "float32",
    calibration: Sequence[Tensor] = (),
    evaluate: Callable[[Predict], dict[str, float]] | None = None,
    aot: bool = False,
    time_compiled: bool = False,
    optimize: bool = True,
) -> dict[str, Any]:
    """Export a model to ONNX, run the file by onnxruntime and compare it with PyTorch.

    The file is written, with the report beside it as ``.json``, if all outputs agree within
    `BOUNDS`; a dynamic file is compared on three sizes and batches, one in int8 on three images of
    its calibration, another one on three images.

    Args:
        model: model from a batch ``(B, 3, H, W)``, and possibly further inputs whose first
            dimension varies, to a tensor or several, in evaluation mode.
        out: path of the file, ``.onnx``; with ``.pt2`` a program of `torch.export` is written.
        size: height and width of the images, or one number for both.
        dynamic: whether the file takes any batch and size; otherwise one image of `size`.
        fuse: whether the branches of X-volutions are merged, and batch norms and products of
            weights folded; all are exact up to rounding.
        force: whether an existing file is overwritten.
        example: function from batch, height and width to a batch, or to a tuple of all inputs;
            None draws random numbers.
        single: whether also a dynamic file takes one image at a time, as detectors do.
        input_names: names of the inputs.
        output_names: names of the outputs; by default ``output_0``, ``output_1`` ...
        metadata: entries that the file keeps, written as JSON.
        resizing: steps that resize images of any size inside an ONNX file.
        precision: type of the weights and of most arithmetic, a key of `BOUNDS`.
        calibration: batches ``(1, 3, H, W)`` of real images as they enter the file, for int8.
        evaluate: function that measures predictions, for the report before and after.
        aot: whether a ``.pt2`` file is a package that AOTInductor compiles for this processor.
        time_compiled: whether the model is also timed by `torch.compile`, which takes a minute.
        optimize: as in :func:`~.formats.write_onnx`.

    Returns:
        report: file, format, size, error and bound of each output, milliseconds of PyTorch, of
        compiled PyTorch and of the file, its operators, and accuracy if it was measured.

    Raises:
        ValueError: if a package is missing, the file exists or cannot be written, the model cannot
            be exported or run at this size, or the outputs differ; nothing is written then.
    """
    out, height, width = Path(out), *read_size(size)
    require_new(out, force=force)
    require_options(
        out,
        aot=aot,
        precision=precision,
        resizes=resizing is not None,
    )
    if precision not in BOUNDS:
        raise ValueError(f"precision must be one of {', '.join(BOUNDS)}, got {precision!r}")
    if precision == "int8" and not calibration:
        raise ValueError("int8 needs images for its calibration, got none")
    torch.manual_seed(0)
    make = example or (lambda *shape: torch.randn(shape[0], 3, *shape[1:]))
    model = deepcopy(model).cpu().eval()
    # before anything merges what it is compared with
    expected: nn.Module = Tupled(deepcopy(model))
    fused = dict(xvolutions=merge_branches(model)) if fuse else {}
    # coordinates need float32
    gives_boxes = any(name.endswith(BOXES) for name in output_names)
    halves_features = precision == "float16" and gives_boxes
    if halves_features:
        halve_features(model)
    elif precision == "float16" and out.suffix == ".pt2":
        model = Half(model)
    if resizing is not None and resizing.size is not None:
        height, width = resizing.size
    is_dynamic = dynamic or (resizing is not None and resizing.size is None)
    inner = as_tuple(make(1 if single or not is_dynamic else 2, height, width))
    bounds = BOUNDS[precision]
    if resizing is not None:
        expected = resizing.around(expected, output_names)
        bounds = wider(bounds, BOUNDS["resized"])
    batches = [
        as_tuple(make(*shape)) for shape in _shapes(height, width, is_dynamic, single, resizing)
    ]
    if precision == "int8":
        batches = [(images,) for images in calibration[:3]]
    references = [run_model(expected, batch) for batch in batches]
    network_names = list(output_names) or [f"output_{i}" for i in range(len(references[0]))]
    names = resizing.names(network_names) if resizing else network_names
    notes = dict(
        size=[height, width],
        dynamic=is_dynamic,
        precision=precision,
        outputs=names,
        opset=OPSET if out.suffix == ".onnx" else None,
        **(metadata or {}),
    )
    draft = out.with_name(f".{out.stem}.draft{out.suffix}")
    try:
        started = time.perf_counter()
        program = capture(Tupled(model).eval(), inner, dynamic=is_dynamic, single=single)
        if fuse:
            fused.update(fuse_program(program))
        if out.suffix == ".onnx":
            changes = _changes(None if halves_features else precision, calibration, resizing)
            operators = write_onnx(
                program, draft, notes, input_names, network_names, changes, optimize=optimize
            )
        else:
            operators = (write_package if aot else write_program)(program, draft, notes)
        seconds = time.perf_counter() - started
        run = load_file(draft)
        errors = compare(run, batches, references, names, bounds)
        accuracy = None
        if evaluate is not None:
            before = evaluate(lambda pixels: predict(expected, pixels, notes))
            after = evaluate(ExportedModel(draft))
            accuracy = {name: dict(before=before[name], after=after[name]) for name in before}
            require_accuracy(accuracy)
        report = dict(
            file=out.name,
            format=describe_format(out, aot=aot),
            **notes,
            bytes=draft.stat().st_size,
            export_seconds=round(seconds, 1),
            fused=fused,
            errors={name: error for name, (error, _) in errors.items()},
            bounds={name: bound for name, (_, bound) in errors.items()},
            milliseconds=measure_times(expected, batches[0], run, compiled=time_compiled),
            operators=operators,
            accuracy=accuracy,
            remarks=[REMARKS[precision]] if precision in REMARKS and out.suffix == ".onnx" else [],
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


def read_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size, one number for both or two.

    Raises:
        ValueError: if they are not positive.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"size must be one or two positive numbers, got {size}")
    return sides[0], sides[1]


def _changes(
    precision: str | None, calibration: Sequence[Tensor], resizing: "Resizing | None"
) -> list[Callable[[Any], Any]]:
    """Return what changes an ONNX model after its export."""
    changes: list[Callable[[Any], Any]] = []
    if precision == "float16":
        from .precision import to_float16

        changes.append(to_float16)
    if precision == "int8":
        from .precision import to_int8

        images = [resizing.resize(x) if resizing else x for x in calibration]
        changes.append(lambda model: to_int8(model, [x.numpy() for x in images]))
    if resizing is not None:
        changes.append(resizing.add)
    return changes


def _shapes(
    height: int, width: int, dynamic: bool, single: bool, resizing: "Resizing | None"
) -> list[tuple[int, int, int]]:
    """Return batch, height and width of the images on which a file is compared."""
    if not dynamic and resizing is None:
        return [(1, height, width)] * 3
    batches = (1, 1, 1) if single or not dynamic else (2, 1, 3)
    sizes = (height, width), (height + 32, width), (height, width + 67)
    return [(batch, *one) for batch, one in zip(batches, sizes, strict=True)]

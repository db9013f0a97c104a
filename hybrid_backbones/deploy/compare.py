"""Exported files beside PyTorch: run by their runtime, on the same images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# largest error of an output in float32, relative to its largest value
TOLERANCE = 1e-4
# name of a file's input
INPUT = "images"

Outputs = tuple[Tensor, ...]


def load_file(path: Path) -> Callable[[Tensor], list[np.ndarray]]:
    """Return the function that runs a written file by its runtime."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()

        def run_program(batch: Tensor) -> list[np.ndarray]:
            with torch.no_grad():
                return [x.numpy() for x in program(batch)]

        return run_program
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {INPUT: batch.numpy()})


def compare(
    run: Callable[[Tensor], list[np.ndarray]],
    batches: list[Tensor],
    references: list[Outputs],
    names: list[str],
) -> dict[str, float]:
    """Return the largest error of each output: relative for numbers, the share of wrong labels.

    Raises:
        ValueError: if the file does not run, or an output differs.
    """
    errors = dict.fromkeys(names, 0.0)
    for batch, reference in zip(batches, references, strict=True):
        shape = "x".join(map(str, batch.shape))
        try:
            outputs = run(batch)
        except Exception as error:  # onnxruntime's errors have no common class
            raise ValueError(
                f"the exported file does not run on images {shape}: {first_line(error)}; nothing "
                "was written"
            ) from error
        for name, ours, theirs in zip(names, outputs, reference, strict=True):
            difference = relative_error(ours, theirs.numpy())
            # this form also rejects NaN
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the exported file differs from PyTorch: {name} by {difference:.1e} on images "
                    f"{shape}, where {TOLERANCE:.0e} is allowed; nothing was written"
                )
            errors[name] = max(errors[name], difference)
    return errors


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape or not theirs.size:
        return float("inf") if ours.shape != theirs.shape else 0.0
    if not np.issubdtype(theirs.dtype, np.floating):
        return float((ours != theirs).mean())
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))


def first_line(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__

"""Predictions of exported files, by numpy, Pillow and onnxruntime alone.

This file must run where PyTorch is not installed: it imports nothing that needs it at the top.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.pictures import decode_picture, to_rgb

# prefix of the metadata of ONNX files, and where those of programs are
PREFIX = "hybrid_backbones."
METADATA = "metadata.json"
# PyTorch's environment variables: files are refused, or run, that need code to be loaded
PICKLES = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
# of masks, as in mmdet's configs
MASK_THRESHOLD = 0.5

Image = str | Path | np.ndarray
Runner = Callable[..., list[np.ndarray]]


class ExportedModel:
    """A file of `tools/export.py`, opened once for many images.

    Args:
        file: path of the file, ``.onnx`` or ``.pt2``; the latter needs PyTorch.

    Attributes:
        metadata: what the file says about itself: `task`, `classes`, `size`, `dynamic` ...

    Raises:
        ValueError: if the file is missing, damaged or of another program, or its runtime is not
            installed.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)
        if not self.file.is_file():
            raise ValueError(f"no file at {self.file}: expected a file of hb export")
        self._run, self.metadata = open_file(self.file)
        if "task" not in self.metadata:
            raise ValueError(
                f"{self.file} does not say what it predicts: expected a file of hb export"
            )

    def __call__(self, image: Image, sketches: Sequence[Image] = ()) -> dict[str, np.ndarray]:
        """Predict on one image; see :func:`run`."""
        pixels = read_image(image)
        inputs = [_batch([pixels])]
        if self.metadata["task"] == "sketch":
            inputs.append(_batch([read_image(sketch) for sketch in sketches]))
        elif len(sketches):
            raise ValueError(f"{self.file} takes no sketches")
        self._require_size(*pixels.shape[:2])
        try:
            outputs = self._run(*inputs)
        except Exception as error:  # the runtimes' errors have no common class
            size = "x".join(map(str, pixels.shape[:2]))
            raise ValueError(
                f"{self.file} does not run on an image of {size} pixels: {first_line(error)}"
            ) from error
        named = dict(zip(self.metadata["outputs"], outputs, strict=True))
        return finish(named, self.metadata, pixels.shape[:2])

    def _require_size(self, height: int, width: int) -> None:
        """Check that the file takes images of a size.

        Raises:
            ValueError: if it takes another size only.
        """
        takes_any = self.metadata["dynamic"] or self.metadata["preprocessing"]["resize"]
        if not takes_any and [height, width] != self.metadata["size"]:
            expected = "x".join(map(str, self.metadata["size"]))
            raise ValueError(
                f"{self.file} takes images of {expected} pixels (height x width), got "
                f"{height}x{width}: resize the image, or export with --resize or --dynamic"
            )


def finish(
    outputs: dict[str, np.ndarray], metadata: dict[str, Any], size: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return the outputs of :func:`run` for those of a file on one image.

    Leaves out the batch, pastes masks into the image and adds the names of classes.

    Args:
        outputs: outputs of the file by name.
        metadata: metadata of the file.
        size: height and width of the image.
    """
    names = np.array(metadata.get("classes") or [], dtype=str)
    if metadata["task"] not in ("detect", "sketch"):
        outputs = {name: values[0] for name, values in outputs.items()}
    elif "labels" in outputs:
        outputs["names"] = names[outputs["labels"]]
    if "masks" in outputs:
        threshold = metadata.get("mask_threshold", MASK_THRESHOLD)
        outputs["masks"] = paste_masks(outputs["masks"], outputs["boxes"], size, threshold)
    return outputs | (dict(classes=names) if names.size else {})


def run(file: str | Path, image: Image, *, sketches: Sequence[Image] = ()) -> dict[str, np.ndarray]:
    """Predict on one image with a file of `tools/export.py`.

    An ``.onnx`` file needs numpy, Pillow and onnxruntime only, a ``.pt2`` file PyTorch. To predict
    on many images, open the file once: ``model = ExportedModel(file); model(image)``. A file that
    was compiled by AOTInductor is a program, which runs as such: use only those that you trust.

    Args:
        file: path of the file.
        image: path of an image file, turned upright by its EXIF orientation; or RGB pixels, uint8,
            ``(H, W, 3)``. An image of another size than that of a file of a fixed size is refused,
            unless the file resizes images itself.
        sketches: sketches of one query in the size that the file takes, in the same forms, if the
            file searches by sketch.

    Returns:
        outputs by name:

        - of classifiers ``logits`` and ``probabilities``, ``(classes,)``;
        - of segmentors ``labels``, ``(H, W)``;
        - of detectors, best first, ``boxes``, ``(N, 4)``, x1 y1 x2 y2 in pixels of the image,
          ``labels``, ``names`` and ``scores``, ``(N,)``, and ``masks``, bool ``(N, H, W)``, if they
          predict them;
        - of searches by sketch ``boxes`` and ``scores``;
        - of backbones maps ``(C, H', W')``, and of detectors before their post-processing all boxes
          and scores, under the names in the file.

        Of models with classes also ``classes``, the names of all.

    Raises:
        ValueError: if the file or the image is missing, damaged or of another kind, they do not fit
            each other, or the runtime is not installed.
    """
    return ExportedModel(file)(image, sketches)


def open_file(path: Path, num_threads: int = 0) -> tuple[Runner, dict[str, Any]]:
    """Return the function that runs a file by its runtime, and the file's metadata.

    Args:
        path: file that ends with ``.onnx`` or ``.pt2``.
        num_threads: number of threads of onnxruntime, 0 for all cores; PyTorch has its own setting.

    Raises:
        ValueError: if the file is damaged or of another kind, or its runtime is not installed.
    """
    is_onnx = path.suffix == ".onnx"
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"an exported file ends with .onnx or .pt2, got {path}")
    runtime = "onnxruntime" if is_onnx else "torch"
    try:
        import_module(runtime)
    except ImportError as error:
        raise ValueError(
            f"{path} needs {runtime}, which cannot be imported ({error}): pip install {runtime}"
        ) from error
    try:
        return _open_onnx(path, num_threads) if is_onnx else _open_program(path)
    except Exception as error:  # the runtimes' errors have no common class
        raise ValueError(f"{path} cannot be opened: {first_line(error)}") from error


def _open_onnx(path: Path, num_threads: int) -> tuple[Runner, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kept = session.get_modelmeta().custom_metadata_map
    metadata = {
        key.removeprefix(PREFIX): json.loads(value)
        for key, value in kept.items()
        if key.startswith(PREFIX)
    }
    names = [one.name for one in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True))), metadata


@contextmanager
def _running_no_pickles() -> Iterator[None]:
    """Let PyTorch refuse what it can only load by running code from the file."""
    before = {name: os.environ.pop(name, None) for name in PICKLES}
    os.environ[PICKLES[0]] = "1"
    try:
        yield
    finally:
        del os.environ[PICKLES[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _open_program(path: Path) -> tuple[Runner, dict[str, Any]]:
    import torch

    if is_compiled(path):
        package: Any = torch._inductor.aoti_load_package(str(path))
        metadata = json.loads(package.get_metadata().get(METADATA, "{}"))
    else:
        extra = {METADATA: ""}
        with _running_no_pickles():
            package = torch.export.load(path, extra_files=extra).module()
        metadata = json.loads(extra[METADATA] or "{}")

    def run_program(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = package(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in outputs]

    return run_program, metadata


def is_compiled(path: Path) -> bool:
    """Return whether a ``.pt2`` file is a package of AOTInductor."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("aotinductor" in name for name in archive.namelist())


def read_image(image: Image) -> np.ndarray:
    """Return the RGB pixels of an image, uint8 ``(H, W, 3)``.

    Raises:
        ValueError: if a file is missing or damaged, or an array has another shape or type.
    """
    if isinstance(image, str | Path):
        try:
            content = Path(image).read_bytes()
        except OSError as error:
            raise ValueError(f"image {image} cannot be read ({error})") from error
        return to_rgb(decode_picture(content, f"image {image}"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise ValueError(f"expected a path or RGB pixels, uint8 (H, W, 3), got {got}")
    return image


def _batch(images: list[np.ndarray]) -> np.ndarray:
    """Return images (H, W, 3) as a batch (B, 3, H, W)."""
    if len({image.shape for image in images}) != 1:
        raise ValueError(
            f"expected sketches of one size, got {[image.shape[:2] for image in images]}"
        )
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, ...], threshold: float
) -> np.ndarray:
    """Enlarge masks to their boxes in the image, bilinearly, as mmdet does.

    Args:
        masks: probabilities inside the boxes, (N, M, M).
        boxes: x1 y1 x2 y2 in pixels, (N, 4).
        size: height and width of the image.
        threshold: lowest probability of a pixel of a mask.

    Returns:
        masks, bool (N, H, W).
    """
    pasted = np.zeros((len(masks), *size), dtype=bool)
    for mask, box, out in zip(masks, boxes, pasted, strict=True):
        # pixels further outside are below any threshold of mmdet's
        left, top = np.maximum(np.floor(box[:2]).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(box[2:]).astype(int) + 1, size[::-1])
        rows = _weights(top, bottom, box[1], box[3], mask.shape[0])
        columns = _weights(left, right, box[0], box[2], mask.shape[1])
        out[top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return pasted


def _weights(first: int, last: int, start: float, end: float, length: int) -> np.ndarray:
    """Return the bilinear weights of `length` cells for pixels, (pixels, length)."""
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        position = (centres - start) / (end - start)
    # of a box without width
    position = np.where(np.isinf(position), np.float32(0.5), position) * length - np.float32(0.5)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(length, dtype=np.float32)), 0)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or of what caused it."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__

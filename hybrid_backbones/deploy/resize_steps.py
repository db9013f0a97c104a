"""Steps of the frameworks' test pipelines that resize or crop images, as functions of ONNX.

Sizes ``h w`` and ``a b``, before and after a step, are float64 ``(1,)``, and computed in the order
of the frameworks' operations. Images are uint8 ``(B, 3, H, W)``. Pixels are rounded after each
pass, as by Pillow; they differ by at most one level from those of OpenCV and Pillow, which compute
in fixed point.
"""

from collections.abc import Callable
from typing import Any

from onnx import ModelProto, TensorProto, helper, inliner
from onnxscript import UINT8, opset18, script

from ..settings import both_sides

FLOAT32, FLOAT64 = int(TensorProto.FLOAT), int(TensorProto.DOUBLE)
BYTE, INTEGER = int(TensorProto.UINT8), int(TensorProto.INT64)
# its own types do not follow what it records
op: Any = opset18
Function = Any
# its type takes no sizes for type checkers
_bytes: Any = UINT8
IMAGES = _bytes["B", 3, None, None]


def keep_ratio(settings: dict[str, Any]) -> Function:
    """Return the size of `Resize` with `keep_ratio`: as large as possible within a scale."""
    short, long = sorted(map(float, both_sides(settings["scale"])))

    @script(default_opset=op)
    def size(h, w):
        ratio = op.Min(long / op.Max(h, w), short / op.Min(h, w))
        return op.Floor(h * ratio + 0.5), op.Floor(w * ratio + 0.5)

    return size


def fixed(settings: dict[str, Any]) -> Function:
    """Return the size of `Resize` without `keep_ratio`."""
    width, height = map(float, both_sides(settings["scale"]))

    @script(default_opset=op)
    def size(h, w):
        return h * 0.0 + height, w * 0.0 + width

    return size


def multiple(settings: dict[str, Any]) -> Function:
    """Return the size of `ResizeToMultiple`, rounded up."""
    divisor = float(settings.get("size_divisor", 32))

    @script(default_opset=op)
    def size(h, w):
        return op.Ceil(h / divisor) * divisor, op.Ceil(w / divisor) * divisor

    return size


def rounded(settings: dict[str, Any]) -> Function:
    """Return the size of `RoundedResize`: that of `keep_ratio`, rounded down to a multiple."""
    inner, divisor = keep_ratio(settings), float(settings.get("divisor", 16))

    @script(default_opset=op)
    def rounded_size(h, w):
        a, b = inner(h, w)
        one = op.CastLike([1.0], h)
        return (
            op.Max(op.Floor(a / divisor), one) * divisor,
            op.Max(op.Floor(b / divisor), one) * divisor,
        )

    return rounded_size


def edge(settings: dict[str, Any]) -> Function:
    """Return the size of `ResizeEdge`: the shorter edge becomes `scale`."""
    scale = float(settings["scale"])

    @script(default_opset=op)
    def size(h, w):
        shorter = op.Min(h, w)
        return op.Floor(scale * h / shorter), op.Floor(scale * w / shorter)

    return size


@script(default_opset=op)
def by_opencv(images, a, b):
    """Interpolate bilinearly, without regard to pixels between the samples."""
    sizes = op.Concat(
        op.Shape(images, start=0, end=2), op.Cast(a, to=INTEGER), op.Cast(b, to=INTEGER), axis=0
    )
    pixels = op.Resize(op.Cast(images, to=FLOAT32), None, None, sizes, mode="linear")
    return op.Cast(op.Clip(op.Round(pixels), 0.0, 255.0), to=BYTE)


@script(default_opset=op)
def distances(before, after):
    """Return the distance of each pixel from each new one, in units of the larger of both."""
    scale = op.Squeeze(before / after)
    zero, one = op.CastLike(0.0, scale), op.CastLike(1.0, scale)
    centres = (op.Range(zero, op.Squeeze(after), one) + 0.5) * scale
    pixels = op.Range(zero, op.Squeeze(before), one) + 0.5
    return op.Abs(pixels - op.Unsqueeze(centres, [1])) / op.Max(scale, one)  # (after, before)


@script(default_opset=op)
def bilinear(x):
    """Return the weight of pixels at a distance in Pillow's bilinear filter."""
    return op.Relu(1.0 - x)


@script(default_opset=op)
def bicubic(x):
    """Return the weight of pixels at a distance in Pillow's bicubic filter."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return op.Where(x < 1.0, near, op.Where(x < 2.0, far, op.CastLike(0.0, x)))


def by_pillow(kernel: Function) -> Function:
    """Return the interpolation of Pillow, which averages when it makes images smaller."""

    @script(default_opset=op)
    def weights(before, after):
        values = kernel(distances(before, after))
        shares = values / op.ReduceSum(values, [1], keepdims=1)
        return op.Cast(shares, to=FLOAT32)

    @script(default_opset=op)
    def interpolate(images, a, b):
        h = op.Cast(op.Shape(images, start=2, end=3), to=FLOAT64)
        w = op.Cast(op.Shape(images, start=3, end=4), to=FLOAT64)
        pixels = op.MatMul(op.Cast(images, to=FLOAT32), op.Transpose(weights(w, b), perm=[1, 0]))
        pixels = op.Clip(op.Round(pixels), 0.0, 255.0)
        pixels = op.MatMul(weights(h, a), pixels)
        return op.Cast(op.Clip(op.Round(pixels), 0.0, 255.0), to=BYTE)

    return interpolate


# by type of step, and by backend and interpolation of mmcv
SIZES: dict[str, Callable[[dict[str, Any]], Function]]
SIZES = dict(ResizeToMultiple=multiple, RoundedResize=rounded, ResizeEdge=edge)
KERNELS: dict[tuple[str, str], Function] = {
    ("cv2", "bilinear"): by_opencv,
    ("pillow", "bilinear"): by_pillow(bilinear),
    ("pillow", "bicubic"): by_pillow(bicubic),
}


def crop(settings: dict[str, Any]) -> ModelProto:
    """Return `CenterCrop` as a model from ``images`` to ``resized``."""
    sides = settings["crop_size"]
    sides = (sides, sides) if isinstance(sides, int) else sides
    constant = helper.make_tensor("window", FLOAT64, [2], list(map(float, sides)))

    @script(default_opset=op)
    def model(images):
        sizes = op.Cast(op.Shape(images, start=2, end=4), to=FLOAT64)
        window = op.Constant(value=constant)
        starts = op.Relu(op.Round((sizes - window) / 2.0))
        ends = starts + window
        resized = op.Slice(images, op.Cast(starts, to=INTEGER), op.Cast(ends, to=INTEGER), [2, 3])
        return resized

    return model.to_model_proto(input_types=[IMAGES], output_types=[IMAGES])


def resize(settings: dict[str, Any]) -> ModelProto:
    """Return a step that resizes as a model from ``images`` to ``resized``."""
    kind = settings["type"]
    if kind == "Resize":
        measure = keep_ratio(settings) if settings.get("keep_ratio") else fixed(settings)
    else:
        measure = SIZES[kind](settings)
    interpolate = KERNELS[_backend(settings)]

    @script(default_opset=op)
    def model(images):
        h = op.Cast(op.Shape(images, start=2, end=3), to=FLOAT64)
        w = op.Cast(op.Shape(images, start=3, end=4), to=FLOAT64)
        a, b = measure(h, w)
        resized = interpolate(images, a, b)
        return resized

    return inliner.inline_local_functions(
        model.to_model_proto(input_types=[IMAGES], output_types=[IMAGES])
    )


def _backend(settings: dict[str, Any]) -> tuple[str, str]:
    return settings.get("backend") or "cv2", settings.get("interpolation") or "bilinear"


def build(settings: dict[str, Any]) -> ModelProto:
    """Return a step of a test pipeline as a model from ``images`` to ``resized``.

    Raises:
        ValueError: if the step has no form in ONNX here.
    """
    kind = settings["type"]
    known = kind in (*SIZES, "Resize", "CenterCrop")
    fits = "scale_factor" not in settings and not settings.get("auto_pad")
    if not (known and fits and _backend(settings) in KERNELS):
        raise ValueError(
            f"--resize: {kind} of the test pipeline, as it is set there, has no form in ONNX: "
            f"expected {', '.join((*SIZES, 'Resize', 'CenterCrop'))} by OpenCV (bilinear) or "
            "Pillow (bilinear or bicubic); leave --resize out, and resize before the file"
        )
    if kind == "ResizeEdge" and settings.get("edge", "short") != "short":
        raise ValueError(f"--resize: ResizeEdge of the edge {settings['edge']!r} is not exported")
    return crop(settings) if kind == "CenterCrop" else resize(settings)


@script(default_opset=op)
def boxes_in(boxes, images, resized):
    """Return boxes in pixels of the images, (N, 4), for those in pixels of the resized ones."""
    before = op.Cast(op.Shape(images, start=2, end=4), to=FLOAT32)
    after = op.Cast(op.Shape(resized, start=2, end=4), to=FLOAT32)
    # y x to x y x y
    return boxes / op.Gather(after / before, [1, 0, 1, 0])


@script(default_opset=op)
def labels_in(logits, images):
    """Return the label map in the size of the images, whose logits are interpolated."""
    sizes = op.Concat(op.Shape(logits, start=0, end=2), op.Shape(images, start=2, end=4), axis=0)
    larger = op.Resize(logits, None, None, sizes, mode="linear")
    return op.ArgMax(larger, axis=1, keepdims=0)

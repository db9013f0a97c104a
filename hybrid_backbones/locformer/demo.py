"""Read user sketches and draw the detections and the attention of LocFormer."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmengine.visualization.utils import img_from_canvas
from PIL import Image, ImageOps
from torch import Tensor

from ..datasets.pictures import decode_picture
from ..settings import tested_dataset, type_name
from .data import RenderSketch
from .quickdraw import CANVAS, DrawingFile, Strokes

# height of the panels of a figure, and width of its image panels, in inches: both at least
PANEL, IMAGE_WIDTH = 4, 5.6
# largest ratio of width to height of an image panel
MAX_RATIO = 3

# FILE.ndjson or FILE.ndjson:INDEX
DRAWING = re.compile(r"(.*\.ndjson)(?::(.*))?")


def read_drawing(name: str) -> Strokes:
    """Read one drawing from a QuickDraw file.

    Args:
        name: FILE.ndjson for its first drawing, or FILE.ndjson:INDEX, counted from 0.

    Raises:
        ValueError: if `name` has another form, or the file or the index does not exist.
    """
    match = DRAWING.fullmatch(name)
    if match is None:
        raise ValueError(f"expected FILE.ndjson or FILE.ndjson:INDEX, got {name}")
    path, index = match.groups(default="0")
    file = DrawingFile(path, recognized_only=False)
    if not (index.isdecimal() and int(index) < len(file)):
        raise ValueError(
            f"{path} has {len(file)} drawings: INDEX must be 0 to {len(file) - 1}, got {index!r}"
        )
    return file[int(index)]


def read_picture(path: str | Path, size: int = CANVAS) -> np.ndarray:
    """Read an image of a sketch, dark on light or light on dark, as white strokes on black.

    It is scaled and padded to uint8 ``(size, size)``, and its contrast is stretched to 0 to 255.

    Raises:
        ValueError: if the file is missing, empty of strokes or rejected by :func:`decode_picture`.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read the sketch {path} ({error}): expected a picture, FILE.ndjson or "
            "FILE.ndjson:INDEX"
        ) from error
    picture = decode_picture(content, f"the sketch {path}").convert("RGBA")
    # transparent background becomes white
    paper = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(paper, picture).convert("L")
    if np.median(np.asarray(picture)) > 127:
        picture = ImageOps.invert(picture)
    pixels = np.asarray(ImageOps.pad(picture, (size, size), Image.Resampling.BOX), dtype=float)
    if np.ptp(pixels) < 32:
        raise ValueError(f"the sketch {path} is an empty picture: choose one with strokes")
    return (255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)


def read_sketch(cfg: Config, sketch: str) -> np.ndarray:
    """Read an image or a drawing as the test pipeline renders it, uint8 (1, size, size)."""
    if DRAWING.fullmatch(sketch):
        return render_as_tested(cfg, [read_drawing(sketch)])
    return read_picture(sketch, sketch_size(cfg))[None]


def sketch_size(cfg: Config) -> int:
    """Return the side of the sketches that a config renders, in pixels."""
    return _rendering(cfg).get("size", CANVAS)


def render_as_tested(cfg: Config, drawings: Sequence[Strokes]) -> np.ndarray:
    """Render drawings as the test pipeline does, uint8 (Q, size, size), white on black."""
    settings = {name: value for name, value in _rendering(cfg).items() if name != "type"}
    return RenderSketch(**settings).transform(dict(drawings=drawings))["sketches"]


def _rendering(cfg: Config) -> dict:
    steps = tested_dataset(cfg).pipeline
    (step,) = (one for one in steps if type_name(one["type"]) == "RenderSketch")
    return step


def attention_to_strokes(weights: Tensor, strokes: Tensor) -> Tensor:
    """Compute how much each image position attends to the strokes of the sketches.

    The attention to each sketch position is normalised over the image; the sum over all sketch
    positions is weighted by the strokes there.

    Args:
        weights: attention weights of :meth:`StageFusion.attention`, ``(Q, H, W, H', W')``.
        strokes: strokes at each sketch position, from 0 for none, ``(Q, H', W')``.

    Returns:
        heat map, ``(H, W)``, from 0 to 1.
    """
    shares = weights / weights.sum((1, 2), keepdim=True)
    heat = (shares * strokes[:, None, None]).sum((0, 3, 4))
    return (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)


def mean_attention(weights: list[Tensor], sketches: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Average the maps of :func:`attention_to_strokes` over all stages.

    Args:
        weights: attention weights of :meth:`StageFusion.attention` of each stage; the first stage
            has stride 4.
        sketches: rendered sketches, white strokes on black, ``(Q, H', W')``.
        size: height and width (H, W) of the image without padding, in pixels.

    Returns:
        heat map of the image, (H, W).
    """
    padded = [4 * side for side in weights[0].shape[1:3]]
    maps = []
    for stage in weights:
        height, width = stage.shape[3:]
        heat = attention_to_strokes(stage, F.adaptive_avg_pool2d(sketches, (height, width)))
        maps.append(F.interpolate(heat[None, None], padded, mode="bilinear")[0, 0])
    height, width = size
    return torch.stack(maps).mean(0)[:height, :width].cpu().numpy()


def show_objects(panel: Axes, pixels: np.ndarray, objects: BaseDataElement) -> None:
    """Show an image, RGB (H, W, 3), with the boxes and scores of objects."""
    height, width = pixels.shape[:2]
    unit = max(height, width / MAX_RATIO)
    # box coordinates start at the corner of the first pixel
    panel.imshow(pixels, extent=(0, width, height, 0))
    for (x1, y1, x2, y2), score in zip(
        objects.bboxes.tolist(), objects.scores.tolist(), strict=True
    ):
        panel.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="red", lw=2))
        # above the box, or inside it at the upper border of the image
        panel.text(
            max(min(x1, width - unit / 10), 0),
            y1,
            f"{score:.2f}",
            color="white",
            fontsize=8,
            va="bottom" if y1 > unit / 15 else "top",
            bbox=dict(facecolor="red", edgecolor="none", pad=1),
        )


def show_attention(panel: Axes, pixels: np.ndarray, attention: np.ndarray) -> None:
    """Show a heat map over an image, RGB (H, W, 3), in grey."""
    height, width = pixels.shape[:2]
    panel.imshow(pixels.mean(axis=2), cmap="gray", extent=(0, width, height, 0))
    panel.imshow(attention, cmap="inferno", alpha=0.6, extent=(0, width, height, 0))


def draw(
    pixels: np.ndarray,
    sketch: np.ndarray,
    prediction: BaseDataElement,
    attention: np.ndarray,
    score_thr: float,
) -> np.ndarray:
    """Draw the sketch, the image with boxes and scores, and the attention map, side by side.

    Args:
        pixels: RGB image, (H, W, 3).
        sketch: rendered sketch, the input of the model, (size, size).
        prediction: data sample with boxes and scores.
        attention: heat map of :func:`mean_attention`, scaled to the size of the image.
        score_thr: lowest score of the boxes to draw.

    Returns:
        figure, RGB, uint8.
    """
    height, width = pixels.shape[:2]
    # aspect ratio of the image panels; longer images are scaled down to fit
    ratio = min(max(width / height, 0.5), MAX_RATIO)
    panel = max(PANEL, IMAGE_WIDTH / ratio)
    figure = Figure((panel * (1 + 2 * ratio), panel + 0.4), layout="constrained", dpi=100)
    panels = figure.subplots(1, 3, width_ratios=[1, ratio, ratio])
    panels[0].imshow(255 - sketch, cmap="gray", vmin=0, vmax=255)
    objects = prediction.pred_instances
    objects = objects[objects.scores >= score_thr]
    show_objects(panels[1], pixels, objects)
    show_attention(panels[2], pixels, attention)
    found = f"{len(objects)} found, scores from {score_thr:g}"
    for panel, title in zip(panels, ("sketch", found, "attention to the sketch"), strict=True):
        panel.set_title(title, fontsize=10)
        panel.axis("off")
    # a frame, as the paper is as white as the figure
    panels[0].axis("on")
    panels[0].set(xticks=[], yticks=[])
    panels[0].spines[:].set_color("lightgray")
    return img_from_canvas(FigureCanvasAgg(figure))

"""Draw what a detector finds of a sketch in an image, and where the sketch attends."""

import re
from pathlib import Path

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image, ImageOps
from torch import Tensor

from ..checkpoints import load_trained
from ..datasets.pictures import decode_picture
from ..datasets.quickdraw import CANVAS, DrawingFile, Strokes
from ..ops.sketch_fusion import StageFusion

# FILE.ndjson or FILE.ndjson:INDEX
DRAWING = re.compile(r"(.*\.ndjson)(?::(.*))?")


def read_drawing(name: str) -> Strokes:
    """Read a drawing of a QuickDraw file.

    Args:
        name: FILE.ndjson for its first drawing, or FILE.ndjson:INDEX, counted from 0.

    Raises:
        ValueError: there is no such drawing.
    """
    path, index = DRAWING.fullmatch(name).groups(default="0")
    file = DrawingFile(path, recognized_only=False)
    if not (index.isdecimal() and int(index) < len(file)):
        raise ValueError(
            f"{path} has {len(file)} drawings: INDEX is one of 0 to {len(file) - 1}, got {index!r}"
        )
    return file[int(index)]


def read_picture(path: str | Path, size: int = CANVAS) -> np.ndarray:
    """Read a drawn picture, dark on light or light on dark, as white strokes on black.

    The picture is scaled into a square and its strokes brightened to white.

    Returns:
        uint8 (size, size).

    Raises:
        ValueError: the file is missing, shows nothing, or :func:`decode_picture` refuses it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read the sketch {path} ({error}): expected a picture, FILE.ndjson or "
            "FILE.ndjson:INDEX"
        ) from error
    picture = decode_picture(content, f"the sketch {path}").convert("RGBA")
    # transparent paper is white
    paper = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(paper, picture).convert("L")
    if np.median(picture) > 127:
        picture = ImageOps.invert(picture)
    pixels = np.asarray(ImageOps.pad(picture, (size, size), Image.Resampling.BOX), dtype=float)
    if np.ptp(pixels) < 32:
        raise ValueError(f"the sketch {path} is an empty picture: choose one with strokes")
    return (255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)


def load_item(cfg: Config, image: str | Path, sketch: str) -> dict:
    """Run the pipeline of the config's test data on an image and a sketch."""
    steps = [s for s in cfg.test_dataloader.dataset.pipeline if s["type"] != "LoadAnnotations"]
    item = dict(img_path=str(image), img_id=0)
    if DRAWING.fullmatch(sketch):
        item["drawings"] = [read_drawing(sketch)]
    else:
        (render,) = (step for step in steps if step["type"] == "RenderSketch")
        steps = [step for step in steps if step is not render]
        item["sketches"] = read_picture(sketch, render.get("size", CANVAS))[None]
    return Compose(steps)(item)


def where_sketch_attends(weights: Tensor, ink: Tensor) -> Tensor:
    """Read the attention of image to sketch the other way: from where cells of strokes are seen.

    Args:
        weights: of :meth:`StageFusion.attention`, ``(S, H, W, H', W')``.
        ink: how much of each cell is stroke, ``(S, H', W')``.

    Returns:
        ``(H, W)``, 0 to 1.
    """
    shares = weights / weights.sum((1, 2), keepdim=True)  # each cell's, over the image
    found = (shares * ink[:, None, None]).sum((0, 3, 4))
    return (found - found.min()) / (found.max() - found.min()).clamp(min=1e-12)


@torch.no_grad()
def predict(
    cfg: Config, item: dict, checkpoint: str | Path, device: str
) -> tuple[BaseDataElement, np.ndarray]:
    """Build the model of a config, load a checkpoint of it and run it on an item.

    Returns:
        the prediction, and the map ``(H, W)`` of where the sketch attends, the mean of all stages,
        over the image as the model saw it.
    """
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_trained(model, checkpoint)
    model.to(device).eval()
    attended = []
    for module in model.modules():
        if isinstance(module, StageFusion):
            module.register_forward_hook(
                lambda fusion, inputs, _: attended.append(fusion.attention(*inputs)[0])
            )
    prediction = model.test_step(pseudo_collate([item]))[0]
    ink = item["sketches"][:, 0].float().to(device)
    # the first stage has stride 4
    size = [4 * side for side in attended[0].shape[1:3]]
    maps = [
        F.interpolate(
            where_sketch_attends(weights, F.adaptive_avg_pool2d(ink, weights.shape[3:]))[
                None, None
            ],
            size,
            mode="bilinear",
        )[0, 0]
        for weights in attended
    ]
    height, width = prediction.img_shape[:2]
    return prediction.cpu(), torch.stack(maps).mean(0)[:height, :width].cpu().numpy()


def draw(
    image: str | Path,
    sketch: np.ndarray,
    prediction: BaseDataElement,
    attended: np.ndarray,
    out: str | Path,
    score_thr: float,
) -> None:
    """Draw sketch, boxes with scores, and the map of where the sketch attends, side by side.

    Args:
        image: file of the image.
        sketch: (H, W), as the model saw it.
        prediction: boxes and scores.
        attended: map over the image.
        out: file of the picture.
        score_thr: boxes of a lower score are not drawn.
    """
    pixels = mmcv.imread(str(image), channel_order="rgb", backend="pillow")
    height, width = pixels.shape[:2]
    ratios = [1, width / height, width / height]
    figure = Figure(figsize=(4 * sum(ratios), 4.4), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=ratios)
    panels[0].imshow(255 - sketch, cmap="gray", vmin=0, vmax=255)
    panels[1].imshow(pixels)
    panels[2].imshow(pixels.mean(axis=2), cmap="gray")
    panels[2].imshow(attended, cmap="inferno", alpha=0.6, extent=(0, width, height, 0))
    objects = prediction.pred_instances
    objects = objects[objects.scores >= score_thr]
    for (x1, y1, x2, y2), score in zip(
        objects.bboxes.tolist(), objects.scores.tolist(), strict=True
    ):
        panels[1].add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="red", lw=2))
        # above the box, or where that would leave the image, within it
        panels[1].text(
            min(x1, width - height / 10),
            y1,
            f"{score:.2f}",
            color="white",
            fontsize=8,
            va="bottom" if y1 > height / 15 else "top",
            bbox=dict(facecolor="red", edgecolor="none", pad=1),
        )
    found = f"{len(objects)} found, scores from {score_thr:g}"
    for panel, title in zip(panels, ("sketch", found, "where it attends"), strict=True):
        panel.set_title(title, fontsize=10)
        panel.axis("off")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)


def sketch_demo(
    cfg: Config,
    image: str | Path,
    sketch: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    device: str = "cpu",
    score_thr: float = 0.3,
) -> BaseDataElement:
    """Find what a sketch shows in an image, draw it into the picture `out`; return the prediction.

    Args:
        sketch: a picture, FILE.ndjson, or FILE.ndjson:INDEX.

    Raises:
        ValueError: where a file is missing, broken or does not fit.
    """
    if cfg.test_dataloader.dataset.type != "SketchCocoDataset":
        raise ValueError("expected a config that searches by sketch; see tools/image_demo.py")
    init_default_scope(cfg.default_scope)
    item = load_item(cfg, image, sketch)
    prediction, attended = predict(cfg, item, checkpoint, device)
    draw(image, item["sketches"][0, 0].numpy(), prediction, attended, out, score_thr)
    return prediction

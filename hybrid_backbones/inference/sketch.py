"""Detect sketched objects in images and draw the results."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement

from ..locformer.demo import draw, mean_attention, read_sketch
from ..locformer.fusion import StageFusion
from ..training.requirements import require_device, require_keys, require_score
from .demo import build_pipeline, build_trained
from .pictures import load_each, pixels_of, plan, write


@torch.no_grad()
def predict(
    cfg: Config, images: Iterable[Path], sketches: np.ndarray, checkpoint: str | Path, device: str
) -> Iterator[tuple[Path, np.ndarray, BaseDataElement, np.ndarray]]:
    """Build the model of a config, load a checkpoint and run it on images with a sketch.

    Yields:
        image file, RGB image, (H, W, 3), prediction, and the heat map of :func:`mean_attention`,
        of the size of the resized image.
    """
    model = build_trained(cfg, checkpoint, device)
    weights = []
    for module in model.modules():
        if isinstance(module, StageFusion):
            module.register_forward_hook(
                lambda fusion, inputs, _: weights.append(fusion.attention(*inputs)[0])
            )
    load, pipeline = build_pipeline(cfg, "RenderSketch")
    strokes = torch.tensor(sketches, dtype=torch.float32, device=device)
    for image, item in load_each(load, images):
        pixels = pixels_of(item)
        prediction = model.test_step(pseudo_collate([pipeline(item | dict(sketches=sketches))]))[0]
        attention = mean_attention(weights, strokes, prediction.img_shape)
        weights.clear()
        yield image, pixels, prediction.cpu(), attention


def sketch_demo(
    cfg: Config,
    image: str | Path,
    sketch: str,
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    device: str = "cpu",
    score_thr: float = 0.3,
) -> list[Path]:
    """Draw the objects that match a sketch in an image, or in each image of a folder.

    Args:
        cfg: config of a detector by sketch.
        sketch: image file of a sketch, FILE.ndjson, or FILE.ndjson:INDEX.
        image, checkpoint, out, device, score_thr: see :func:`~.demo.demo`.

    Returns:
        paths of the written figures.

    Raises:
        ValueError: if a file is missing, damaged, does not fit the model or cannot be written.
    """
    require_keys(cfg, "default_scope", "model", "test_dataloader")
    if cfg.test_dataloader.dataset.type != "SketchCocoDataset":
        raise ValueError("expected a config that searches by sketch; see tools/image_demo.py")
    require_device(device)
    require_score(score_thr)
    outs = plan(image, out, sketch, checkpoint)
    init_default_scope(cfg.default_scope)
    sketches, written = read_sketch(cfg, sketch), []
    for path, pixels, prediction, attention in predict(cfg, outs, sketches, checkpoint, device):
        write(draw(pixels, sketches[0], prediction, attention, score_thr), outs[path])
        written.append(outs[path])
    return written

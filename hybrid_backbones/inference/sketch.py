"""Detect sketched objects in images and draw the results."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..locformer.demo import draw, mean_attention, read_sketch
from ..locformer.fusion import StageFusion
from ..settings import tested_dataset, type_name
from ..training.requirements import require_device, require_keys, require_score
from .demo import build_pipeline, build_trained
from .pictures import load_each, pixels_of, plan, write


@torch.no_grad()
def search(
    model: BaseModel, item: dict, sketches: np.ndarray
) -> tuple[BaseDataElement, np.ndarray]:
    """Detect the objects that sketches of one category show, in an image.

    Args:
        model: detector by sketch, in evaluation mode.
        item: what the test pipeline makes of an image and the sketches.
        sketches: rendered sketches, uint8 (Q, size, size).

    Returns:
        prediction, and the heat map of :func:`mean_attention`, of the size of the resized image.
    """
    weights: list[Tensor] = []
    fusions = [module for module in model.modules() if isinstance(module, StageFusion)]
    hooks = [
        fusion.register_forward_hook(
            lambda fusion, inputs, _: weights.append(fusion.attention(*inputs)[0])
        )
        for fusion in fusions
    ]
    try:
        (prediction,) = model.test_step(pseudo_collate([item]))
    finally:
        for hook in hooks:
            hook.remove()
    strokes = torch.tensor(sketches, dtype=torch.float32, device=weights[0].device)
    return prediction.cpu(), mean_attention(weights, strokes, prediction.img_shape)


def predict(
    cfg: Config, images: Iterable[Path], sketches: np.ndarray, checkpoint: str | Path, device: str
) -> Iterator[tuple[Path, np.ndarray, BaseDataElement, np.ndarray]]:
    """Build the model of a config, load a checkpoint and run it on images with a sketch.

    Yields:
        image file, RGB image, (H, W, 3), and prediction and heat map of :func:`search`.
    """
    model = build_trained(cfg, checkpoint, device)
    load, pipeline = build_pipeline(cfg, "RenderSketch")
    for image, item in load_each(load, images):
        pixels = pixels_of(item)
        yield image, pixels, *search(model, pipeline(item | dict(sketches=sketches)), sketches)


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
    if type_name(tested_dataset(cfg).type) != "SketchCocoDataset":
        raise ValueError("expected a config that searches by sketch; see hb demo")
    require_device(device)
    require_score(score_thr)
    outs = plan(image, out, sketch, checkpoint)
    init_default_scope(cfg.default_scope)
    sketches, written = read_sketch(cfg, sketch), []
    for path, pixels, prediction, attention in predict(cfg, outs, sketches, checkpoint, device):
        write(draw(pixels, sketches[0], prediction, attention, score_thr), outs[path])
        written.append(outs[path])
    return written

"""An image as a network receives it, what the network finds in it, and a position to look from."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch import Tensor

from ..inference.demo import build_pipeline, build_trained, read_dataset_meta, require_names
from ..inference.labels import class_logits
from ..inference.pictures import load_each
from ..locformer.data import SKETCHED
from .capture import Images
from .features import stage_paths
from .gradients import class_activation

# whether a data preprocessor turns BGR into RGB: mmengine's, upstream mmseg's, mmpretrain's
TO_RGB = ("_channel_conversion", "channel_conversion", "to_rgb")


class Subject(NamedTuple):
    """One image and what is looked at in it; places are in pixels of the network's input."""

    model: BaseModel
    inputs: Tensor  # (1, 3, H', W'), normalised, with the padding of the batch
    pixels: np.ndarray  # (H, W, 3), RGB from 0 to 1, without padding
    found: str  # what the network finds, in words
    box: tuple[float, float, float, float] | None  # x, y, width and height of a detection
    score: Callable[[], Tensor] | None  # runs the model and returns the score of what is found
    position: tuple[int, int]  # (y, x)
    more: tuple[Any, ...] = ()  # what the network takes beside the images: sketches and samples
    strokes: Tensor | None = None  # (Q, S, S), rendered sketches, from 0 to 255 on the strokes

    @property
    def arguments(self) -> Images:
        """All that the network takes."""
        return (self.inputs, *self.more) if self.more else self.inputs

    def place(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the position in a map of the given size."""
        scaled = (
            p * side // whole
            for p, side, whole in zip(self.position, size, self.inputs.shape[2:], strict=True)
        )
        y, x = (min(p, side - 1) for p, side in zip(scaled, size, strict=True))
        return y, x


class Finding(NamedTuple):
    """The strongest result of a network: its words, position, box and score."""

    words: str
    position: tuple[int, int] | None
    box: tuple[float, float, float, float] | None
    score: Callable[[], Tensor] | None


def to_pixels(model: BaseModel, inputs: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Undo the normalisation of ``(1, 3, H', W')``, and crop its padding: RGB from 0 to 1."""
    preprocessor = model.data_preprocessor
    image = inputs[0].detach().float().cpu()
    mean, std = (getattr(preprocessor, name, None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        image = image * std.float().cpu() + mean.float().cpu()
    channels = 3 if image.shape[0] == 3 else 1
    rgb = image[:channels].expand(3, -1, -1).permute(1, 2, 0).numpy() / 255
    # all our pipelines load BGR, and each host has its name for turning it
    turned = any(getattr(preprocessor, name, False) for name in TO_RGB)
    if not turned:
        rgb = rgb[..., ::-1]
    return np.ascontiguousarray(rgb[: size[0], : size[1]].clip(0, 1))


def _name_of(label: int, names: list[str]) -> str:
    """Return the name of a class, with a ValueError if it has none."""
    require_names(np.array(label), names)
    return names[label]


def _find_object(model: BaseModel, batch: dict, names: list[str]) -> Finding:
    """Return the detection of the highest score."""

    arguments = [batch[key] for key in ("inputs", "sketches", "data_samples") if key in batch]

    def predict() -> Any:
        return model.predict(*arguments, rescale=False)[0]

    with torch.no_grad():
        objects = predict().pred_instances
    if not len(objects):
        return Finding("nothing found", None, None, None)
    best = int(objects.scores.argmax())
    x1, y1, x2, y2 = objects.bboxes[best].tolist()
    words = f"{_name_of(int(objects.labels[best]), names)} {objects.scores[best]:.2f}"
    return Finding(
        words,
        (int((y1 + y2) / 2), int((x1 + x2) / 2)),
        (x1, y1, x2 - x1, y2 - y1),
        lambda: predict().pred_instances.scores[best],
    )


def _find_region(model: BaseModel, batch: dict, names: list[str]) -> Finding:
    """Return the class with the second largest area, as the largest is the background."""
    metas = [sample.metainfo for sample in batch["data_samples"]]

    def logits() -> Tensor:
        values = model.encode_decode(batch["inputs"], metas)
        return class_logits(model.decode_head, values)[0]  # (classes, H, W)

    with torch.no_grad():
        values = logits()
    labels = values.argmax(0)
    areas = labels.flatten().bincount(minlength=len(values))
    order = areas.argsort(descending=True).tolist()
    label = order[1] if len(order) > 1 and areas[order[1]] else order[0]
    mask = labels == label
    # the surest pixel of it
    peak = int(values[label].masked_fill(~mask, -torch.inf).argmax())
    share = areas[label] / labels.numel()
    return Finding(
        f"{_name_of(label, names)}, {100 * share:.0f} % of the image",
        (peak // labels.shape[1], peak % labels.shape[1]),
        None,
        lambda: logits()[label][mask].mean(),
    )


def _find_class(model: BaseModel, batch: dict, names: list[str]) -> Finding:
    """Return the class of the highest score, at the peak of its Grad-CAM."""

    def logits() -> Tensor:
        out = model(batch["inputs"], mode="tensor")
        return out[-1][0] if isinstance(out, tuple | list) else out[0]

    with torch.no_grad():
        shares = logits().softmax(0)
    label = int(shares.argmax())
    words = f"{_name_of(label, names)} {shares[label]:.2f}"
    paths = stage_paths(model)
    if not paths:
        return Finding(words, None, None, lambda: logits()[label])
    # the last stage is coarse
    cam = class_activation(model, paths[-2], lambda: logits()[label])[0]
    peak = divmod(int(cam.argmax()), cam.shape[1])
    y, x = (
        int((p + 0.5) * whole / side)
        for p, side, whole in zip(peak, cam.shape, batch["inputs"].shape[2:], strict=True)
    )
    return Finding(words, (y, x), None, lambda: logits()[label])


FINDERS = {"mmdet": _find_object, "mmseg": _find_region, "mmpretrain": _find_class}


def read_subjects(
    cfg: Config,
    images: Iterable[Path],
    checkpoint: str | Path,
    device: str,
    at: tuple[int, int] | None = None,
    sketches: np.ndarray | None = None,
) -> Iterator[tuple[Path, Subject]]:
    """Build the trained model of a config, and prepare images to look into it.

    Args:
        cfg: config of a detector, by sketch or not, segmentor or classifier.
        images: image files.
        checkpoint: checkpoint of the model.
        device: device of the model.
        at: position (y, x) to look from, in pixels of the network's input; None looks from where
            the strongest result is, or from the centre if there is none.
        sketches: rendered sketches to search for, uint8 ``(Q, S, S)``, of a detector by sketch.

    Raises:
        ValueError: if a file is missing, damaged or does not fit, or `at` lies outside the image.
    """
    model = build_trained(cfg, checkpoint, device)
    if sketches is None:
        names = read_dataset_meta(cfg, checkpoint)["classes"]
    else:
        names = [*SKETCHED["classes"]]
    load, pipeline = build_pipeline(cfg)
    strokes = None if sketches is None else torch.tensor(sketches, dtype=torch.float32)
    asked = {} if sketches is None else dict(sketches=sketches)
    for path, item in load_each(load, images):
        batch = model.data_preprocessor(pseudo_collate([pipeline(item | asked)]), False)
        height, width = batch["data_samples"][0].metainfo["img_shape"][:2]
        if at is not None and not (0 <= at[0] < height and 0 <= at[1] < width):
            raise ValueError(
                f"--at Y X must lie in the {height}×{width} pixels that the network receives of "
                f"{path}, got {at[0]} {at[1]}"
            )
        yield path, find_subject(model, batch, cfg.default_scope, names, at, strokes)


def find_subject(
    model: BaseModel,
    batch: dict,
    scope: str,
    names: list[str],
    at: tuple[int, int] | None = None,
    strokes: Tensor | None = None,
) -> Subject:
    """Find the strongest result of a network in an image, and the position to look from.

    Args:
        model: trained model in evaluation mode.
        batch: one image, as the model's data preprocessor returns it.
        scope: key of :data:`FINDERS`.
        names: names of the classes.
        at: position (y, x) to look from, in pixels of the network's input; None looks from where
            the strongest result is, or from the centre if there is none.
        strokes: rendered sketches ``(Q, S, S)`` that the batch has, of a detector by sketch.

    Raises:
        ValueError: if the class that is found has no name.
    """
    height, width = size = tuple(batch["data_samples"][0].metainfo["img_shape"][:2])
    words, place, box, score = FINDERS[scope](model, batch, names)
    y, x = at or place or (height // 2, width // 2)
    position = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    pixels = to_pixels(model, batch["inputs"], size)
    more = () if strokes is None else (batch["sketches"], batch["data_samples"])
    return Subject(model, batch["inputs"], pixels, words, box, score, position, more, strokes)

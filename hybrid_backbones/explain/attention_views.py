"""Where a position attends: on the image, and of LocFormer on the sketches."""

import numpy as np
import torch
from torch import Tensor

from ..locformer.demo import mean_attention
from ..locformer.fusion import StageFusion
from ..ops import ACmix, LocalRelationAggregator
from ..ops.xvolution import MergedXVolution, XVolution
from .look import attending_modules, attention
from .panels import MAX_SINGLE, Box, Heat, Panel, View
from .scene import Scene, short


def _support(weights: Tensor, stride: tuple[float, float]) -> list[tuple[Box, str, str]]:
    """Return the rectangle of the positions with weight, in pixels, if there is one."""
    rows, columns = (weights != 0).nonzero().unbind(1)
    if not len(rows):
        return []
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    # the whole map needs no outline, and routed regions have none
    if height * width != len(rows) or len(rows) == weights.numel():
        return []
    box = left * stride[1], top * stride[0], width * stride[1], height * stride[0]
    return [(box, "lime", "seen")]


def show_attention(scene: Scene) -> View | None:
    """Where the position looks: on the sketches, and in the map of each layer."""
    numbers: dict[str, np.ndarray] = {}
    sketches, layers, heads = _on_sketches(scene, numbers), *_on_maps(scene, numbers)
    panels = [*sketches, *layers, *heads]
    best = range(len(sketches) + len(layers))
    return View("Where the position attends", panels, numbers, best) if panels else None


def _paths(scene: Scene, *, fusions: bool) -> list[str]:
    """Return the layers to look at that are sketch fusions, or all others."""
    modules = attending_modules(scene.model)
    return scene.chosen(
        path
        for path in modules
        if path in scene.sizes
        and isinstance(modules[path][0], StageFusion) == fusions
        and not isinstance(modules[path][0], LocalRelationAggregator)
    )


def _on_maps(scene: Scene, numbers: dict[str, np.ndarray]) -> tuple[list[Panel], list[Panel]]:
    """Draw the mean over heads in each layer, and each head of one; add the weights to numbers."""
    panels: list[Panel] = []
    heads: list[Panel] = []
    layers = _paths(scene, fusions=False)
    for path in layers:
        place = scene.subject.place(scene.sizes[path])
        weights = attention(scene.model, scene.subject.arguments, path, place)[0]
        module = attending_modules(scene.model)[path][0]
        strided = module.stride if isinstance(module, ACmix) else 1
        if isinstance(module, XVolution | MergedXVolution):
            strided = module.geometry["stride"]
        down, right = (side / strided for side in scene.stride(path))
        signed = bool((weights < 0).any())
        settings: dict = dict(stride=(down, right), signed=signed, mark=scene.mark)
        # what cannot be seen stays bare
        seen = weights.masked_fill(weights == 0, torch.nan)
        mean = weights.mean(0)
        settings["boxes"] = _support(mean, (down, right))
        heads_of = f"mean of {len(weights)} heads" if len(weights) > 1 else "one head"
        title = f"{short(path)}\n{heads_of}, position {place}"
        title += scene.beside(mean, (down, right))
        panels.append(scene.heat(path, seen.nanmean(0), title, "weight", **settings))
        # maps of the last stage have few positions
        if path == layers[-2:][0] and len(weights) > 1:
            heads = [
                scene.heat(path, seen[i], f"{short(path)}\nhead {i}", "weight", **settings)
                for i in range(min(len(weights), MAX_SINGLE))
            ]
        numbers[path] = weights.cpu().numpy()
    return panels, heads


def _on_sketches(scene: Scene, numbers: dict[str, np.ndarray]) -> list[Panel]:
    """Draw the image's mean attention to the sketches, and the position's weights on them."""
    layers, strokes = _paths(scene, fusions=True), scene.subject.strokes
    if strokes is None or not layers:
        return []
    panels: list[Panel] = []
    if scene.layer is None:
        stages = [scene.records[path]["sketch_attention"][0] for path in layers]
        height, width = scene.subject.pixels.shape[:2]
        heat = mean_attention(stages, strokes.to(stages[0]), (height, width))
        title = "mean attention to the strokes\nfrom each position, over all stages"
        label = "mean of maps from 0 to 1"
        panels.append(
            Heat(title, scene.subject.pixels, heat, label, (height, width), mark=scene.mark)
        )
        numbers["mean_attention"] = heat
    for path in layers:
        place = scene.subject.place(scene.sizes[path])
        weights = attention(scene.model, scene.subject.arguments, path, place)[0]
        title = f"{short(path)}\non the sketch, mean of {len(weights)} heads, position {place}"
        panels.append(sketch_heat(strokes, weights.mean(0), title))
        if scene.layer is not None:
            panels += [
                sketch_heat(strokes, head, f"{short(path)}\non the sketch, head {i}")
                for i, head in enumerate(weights[:MAX_SINGLE])
            ]
        numbers[path] = weights.cpu().numpy()
    return panels


def on_paper(strokes: Tensor) -> np.ndarray:
    """Draw sketches ``(Q, S, S)`` beside each other, black on white, as RGB from 0 to 1."""
    row = 1 - torch.cat([*strokes], 1) / 255  # (S, Q·S)
    return row[..., None].expand(-1, -1, 3).cpu().numpy()


def sketch_heat(strokes: Tensor, weights: Tensor, title: str) -> Heat:
    """Draw weights on sketches, one below the other ``(Q·H', W')``, over the sketches in a row."""
    number, side = strokes.shape[:2]
    row = torch.cat([*weights.unflatten(0, (number, -1))], 1)
    frames: list[tuple[Box, str, str]] = [
        ((i * side, 0, side, side), "gray", "one sketch") for i in range(number)
    ]
    return Heat(
        *(title, on_paper(strokes), row.float().cpu().numpy(), "weight"),
        extent=(side, number * side),
        boxes=frames if number > 1 else (),
        # the strokes are seen through the weights
        opacity=0.6,
    )

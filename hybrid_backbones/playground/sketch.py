"""Tab Search by sketch: LocFormer finds in a picture what somebody draws.

The canvas is ours. Gradio's Sketchpad draws only after a tool has been chosen, needs WebGL (seconds
a line without a GPU) and hands over pixels. The models learned from strokes, which are rendered
here as the test pipeline renders QuickDraw's, so that neither place nor pen changes a sketch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmengine.visualization.utils import img_from_canvas

from ..inference.pictures import picture_size
from ..inference.sketch import search
from ..locformer.demo import render_as_tested, show_attention, show_objects
from ..locformer.quickdraw import DrawingFile, Strokes, find_drawings, render_drawing
from ..locformer.shape_sketches import draw_shape_sketches
from ..mini.shapes import CLASSES, draw_mini
from .detect import MAX_ROWS, Result, to_html
from .handlers import read_score, reporting, require_chosen
from .images import Picture, picture_field, read_upload, result_field
from .models import Model, Models

MAX_SKETCHES = 5
# largest coordinate of QuickDraw's drawings, which touch the left and the upper border
QUICKDRAW = 255
# of the canvas' side: what is smaller is a slip of the hand; and points of a drawing
MIN_EXTENT, MAX_POINTS = 0.03, 20_000
# side in pixels of the sketches that the page shows
THUMBNAIL = 160
RED = (255, 0, 0)
CANVAS_HTML = """
<canvas width="480" height="480" aria-label="Canvas to draw on"></canvas>
<div><button class="undo">Undo</button> <button class="clear">Clear</button></div>
"""
CANVAS_CSS = """
canvas { width: 100%; max-width: 360px; aspect-ratio: 1; display: block; margin: 0 auto;
  background: white; border: 1px solid #8888; border-radius: 6px; cursor: crosshair;
  touch-action: none; }
div { display: flex; justify-content: center; gap: 0.5rem; margin-top: 0.5rem; }
button { margin: 0; padding: 0.35rem 1.2rem; min-height: 2.2rem; border: 1px solid #8888;
  border-radius: 6px; }
"""
CANVAS_JS = (Path(__file__).parent / "canvas.js").read_text()


def read_strokes(drawn: str | None) -> Strokes:
    """Read what the canvas hands over, wherever and however large it was drawn, as QuickDraw's.

    Args:
        drawn: strokes as JSON, ``[[[x, ...], [y, ...]], ...]``, in units of any size.

    Returns:
        strokes that touch the left and the upper border, from 0 to 255, each (2, number of points).

    Raises:
        ValueError: if nothing was drawn; the message is one sentence.
    """
    try:
        strokes = [np.array([xs, ys], dtype=float) for xs, ys in json.loads(drawn or "[]")]
    except (ValueError, TypeError) as error:
        raise ValueError("The sketch cannot be read: clear it and draw again.") from error
    strokes = [stroke for stroke in strokes if stroke.size]
    if not strokes:
        raise ValueError("The sketch is empty: draw the outline of what you look for.")
    if any(stroke.ndim != 2 or not np.isfinite(stroke).all() for stroke in strokes):
        raise ValueError("The sketch cannot be read: clear it and draw again.")
    points = np.concatenate(strokes, axis=1)
    if points.shape[1] > MAX_POINTS:
        raise ValueError("The sketch has too many lines: clear it and draw an outline.")
    low = points.min(axis=1, keepdims=True)
    extent = (points - low).max()
    if extent < MIN_EXTENT:
        raise ValueError("The sketch is only a dot: draw the outline of what you look for.")
    return [(stroke - low) * QUICKDRAW / extent for stroke in strokes]


def gather(drawn: str | None, kept: Sequence[str]) -> list[str]:
    """Return the kept sketches with the one on the canvas, if there is one.

    Raises:
        ValueError: if there is none at all, or there are more than `MAX_SKETCHES`.
    """
    # what is left on the canvas is asked for, too, unless it is empty
    sketches = [*kept, drawn] if drawn and drawn != "[]" else [*kept]
    for one in sketches or [""]:
        read_strokes(one)
    if len(sketches) > MAX_SKETCHES:
        raise ValueError(
            f"There are {len(sketches)} sketches, but at most {MAX_SKETCHES} can be asked for: "
            "clear the canvas or remove one."
        )
    return sketches


def keep(drawn: str | None, kept: Sequence[str]) -> list[str]:
    """Add the sketch on the canvas to the kept ones.

    Raises:
        ValueError: if it is empty, or one too many.
    """
    read_strokes(drawn)
    return gather(drawn, kept)


def sample_sketch(shape: str, index: int) -> str:
    """Return a drawing of the mini set as the canvas would hand it over."""
    folder = draw_shape_sketches(draw_mini("data/mini"))
    drawings = DrawingFile(find_drawings(folder, shape), "test")
    drawing = drawings[index % len(drawings)]
    return json.dumps([(stroke / QUICKDRAW).tolist() for stroke in drawing])


def thumbnail(drawn: str) -> np.ndarray:
    """Render a sketch in white on black."""
    return render_drawing(read_strokes(drawn), THUMBNAIL, line_width=3, antialias=True, fit=True)


def side_by_side(sketches: Sequence[np.ndarray]) -> np.ndarray | None:
    """Draw sketches, white on black, in black on white in one picture; None if there are none."""
    if not len(sketches):
        return None
    factor = -(-THUMBNAIL // sketches[0].shape[0])
    enlarged = [one.repeat(factor, axis=0).repeat(factor, axis=1) for one in sketches]
    return np.hstack([np.pad(255 - one, 12, constant_values=255) for one in enlarged])


def say_number(cfg: Config) -> str:
    """Say how many sketches at a time a model was trained with, and what it makes of several."""
    trained = cfg.train_dataloader.dataset.get("num_sketches", 1)
    number = "one sketch" if trained == 1 else f"{trained} sketches"
    several = "mixes" if cfg.model.get("mix_sketches") else "averages"
    return (
        f"This model was trained with {number} at a time; it {several} what several say, so all "
        "should show one kind of object."
    )


class Found(NamedTuple):
    """What a model finds."""

    result: Result  # with the picture and its boxes
    attention: np.ndarray  # RGB, uint8: the picture under the heat map
    sketches: np.ndarray  # (Q, size, size), uint8: what the model saw


def find(model: Model, picture: Picture, drawings: Sequence[str], score_thr: float) -> Found:
    """Search a picture for what sketches show.

    Args:
        model: detector by sketch.
        picture: picture of :func:`read_upload`.
        drawings: what the canvas handed over, for each sketch.
        score_thr: lowest score of the objects.

    Raises:
        ValueError: if the model cannot be loaded or a sketch is empty.
    """
    begun = perf_counter()
    with model.in_use() as loaded:
        sketches = render_as_tested(loaded.cfg, [read_strokes(one) for one in drawings])
        ready = perf_counter()
        item = loaded.pipeline(picture.item() | dict(sketches=sketches))
        prediction, attention = search(loaded.net, item, sketches)
    searched = perf_counter()
    objects = prediction.pred_instances
    objects = objects[objects.scores >= score_thr]
    boxes = _draw(picture.pixels, show_objects, objects)
    heat = _draw(picture.pixels, show_attention, attention)
    times = dict(waiting=ready - begun, search=searched - ready, drawing=perf_counter() - searched)
    words = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in times.items())
    words = f"{picture.note} {say_number(loaded.cfg)} Time: {words}.".strip()
    rows = _rows(objects)
    columns = ("object", "score", "left, top, right, bottom")
    return Found(Result(boxes, columns, rows, [RED] * len(rows), words), heat, sketches)


def _rows(objects: BaseDataElement) -> list[list[str]]:
    boxes, scores = objects.bboxes.tolist(), objects.scores.tolist()
    return [
        [str(i), f"{score:.2f}", ", ".join(f"{side:.0f}" for side in box)]
        for i, (box, score) in enumerate(zip(boxes, scores, strict=True), start=1)
    ][:MAX_ROWS]


def _draw(pixels: np.ndarray, show: Any, shown: Any) -> np.ndarray:
    """Draw a panel over the whole of a figure, RGB, uint8."""
    height, width = picture_size(*pixels.shape[:2])
    figure = Figure((width / 100, height / 100), dpi=100)
    panel = figure.add_axes((0, 0, 1, 1))
    panel.axis("off")
    show(panel, pixels, shown)
    panel.set_aspect("auto")
    return img_from_canvas(FigureCanvasAgg(figure))


def _titled(title: str, name: str) -> gr.Image:
    """Lay out a picture of the result under its title."""
    with gr.Column(min_width=280):
        gr.Markdown(f"**{title}**")
        return result_field(title, name)


def build(models: Models) -> None:
    """Lay out the tab."""
    names = [model.name for model in models.of("sketch")]

    def shown(kept: Sequence[str]) -> tuple[list[str], np.ndarray | None, str]:
        # an empty value clears the canvas
        return list(kept), side_by_side([thumbnail(one) for one in kept]), ""

    @reporting
    def add(drawn: str, kept: list[str]) -> tuple[Any, ...]:
        return shown(keep(drawn, kept))

    @reporting
    def add_sample(shape: str, drawn: str, kept: list[str]) -> tuple[Any, ...]:
        require_chosen(shape, CLASSES, "Sample sketch")
        sample = sample_sketch(shape, len(kept))
        return *shown(gather(sample, kept))[:2], drawn

    @reporting
    def remove(kept: list[str]) -> tuple[Any, ...]:
        return shown(kept[:-1])[:2]

    @reporting
    def run(
        upload: str | None, name: str | None, drawn: str, kept: list[str], score_thr: float | None
    ) -> tuple[Any, ...]:
        lowest, drawings = read_score(score_thr), gather(drawn, kept)
        found = find(models.named(name), read_upload(upload), drawings, lowest)
        table = to_html(name or "", found.result)
        return found.result.drawn, found.attention, side_by_side([*found.sketches]), table

    gr.Markdown(
        "Choose a picture, draw the outline of what you look for, and **Search**. To ask by "
        f"several sketches of one kind of object, at most {MAX_SKETCHES}, add each before the next."
    )
    if not names:
        gr.Markdown("No model that searches by sketch is served: name a config of LocFormer.")
    with gr.Row():
        with gr.Column(min_width=280):
            upload = picture_field("Picture", "sketch-picture")
            model = gr.Dropdown(names, label="Model", elem_id="sketch-model")
            score_thr = gr.Slider(
                *(0, 1, 0.3), step=0.01, label="Lowest score", elem_id="sketch-score"
            )
        with gr.Column(min_width=280):
            canvas = gr.HTML(
                "",
                html_template=CANVAS_HTML,
                css_template=CANVAS_CSS,
                js_on_load=CANVAS_JS,
                label="Sketch",
                elem_id="sketch-canvas",
            )
            with gr.Row():
                more = gr.Button("Add sketch", size="sm", elem_id="sketch-add")
                less = gr.Button("Remove last", size="sm", elem_id="sketch-remove")
            with gr.Row():
                shape = gr.Dropdown(CLASSES, label="Sample sketch", elem_id="sketch-shape")
                sample = gr.Button("Add sample", size="sm", elem_id="sketch-sample")
            kept = gr.State([])
            added = gr.Image(
                label="Added sketches",
                height=150,
                interactive=False,
                format="png",
                buttons=[],
                elem_id="sketch-kept",
            )
            with gr.Row():
                button = gr.Button("Search", variant="primary", elem_id="sketch-run")
                cancel = gr.Button("Cancel", elem_id="sketch-cancel")
    with gr.Row():
        found = _titled("Found", "sketch-found")
        heat = _titled("Where the sketch attends", "sketch-heat")
    with gr.Row():
        table = gr.HTML(elem_id="sketch-table", padding=True, min_width=280)
        seen = _titled("What the model saw", "sketch-seen")
    hidden: dict[str, Any] = dict(api_visibility="private")
    # a mistake must not cover the added sketches
    quiet = dict(show_progress="hidden", **hidden)
    more.click(add, [canvas, kept], [kept, added, canvas], **quiet)
    less.click(remove, kept, [kept, added], **quiet)
    sample.click(add_sample, [shape, canvas, kept], [kept, added, canvas], **quiet)
    event = button.click(
        run, [upload, model, canvas, kept, score_thr], [found, heat, seen, table], **hidden
    )
    cancel.click(None, cancels=[event], **hidden)

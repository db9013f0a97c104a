"""Tab Detect / Segment / Classify: what a model finds in a picture, or two models side by side."""

import html
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement

from ..inference.demo import draw, require_names
from .handlers import read_score, reporting
from .images import Picture, picture_field, read_upload, result_field
from .models import Loaded, Model, Models

TASKS = ("detect", "segment", "classify")
NONE = "no second model"
# rows of a table
MAX_ROWS, MAX_CLASSES = 50, 5


class Result(NamedTuple):
    """What a model finds in a picture."""

    drawn: np.ndarray  # RGB, uint8
    columns: Sequence[str]
    rows: list[list[str]]
    colours: list[tuple[int, ...]]  # of each row
    words: str


@torch.no_grad()
def find(model: Model, picture: Picture, score_thr: float) -> Result:
    """Run a model on a picture, and draw and list what it finds.

    Args:
        model: detector, segmentor or classifier.
        picture: picture of :func:`read_upload`.
        score_thr: lowest score of detections.

    Raises:
        ValueError: if the model cannot be loaded, or its classes have no names.
    """
    begun = perf_counter()
    with model.in_use() as loaded:
        ready = perf_counter()
        batch = pseudo_collate([loaded.pipeline(picture.item())])
        prepared = perf_counter()
        prediction = loaded.net.test_step(batch)[0].cpu()
        predicted = perf_counter()
        # first, as drawing scales the boxes of a prediction
        columns, rows, colours = _table(loaded, prediction, score_thr)
        drawn = draw(loaded.visualizer, picture.pixels, prediction, score_thr)
    times = dict(
        waiting=ready - begun,
        preparing=prepared - ready,
        network=predicted - prepared,
        drawing=perf_counter() - predicted,
    )
    words = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in times.items())
    return Result(drawn, columns, rows, colours, f"{picture.note} Time: {words}.".strip())


def _table(
    loaded: Loaded, prediction: BaseDataElement, score_thr: float
) -> tuple[Sequence[str], list[list[str]], list[tuple[int, ...]]]:
    """Return the columns, rows and colours of the table of a prediction."""
    names, palette = loaded.meta["classes"], loaded.meta["palette"]

    def colour(label: int) -> tuple[int, ...]:
        return tuple(int(value) for value in palette[label])

    if "pred_sem_seg" in prediction:
        labels = prediction.pred_sem_seg.data[0].numpy()
        require_names(labels, names)
        counts = np.bincount(labels.ravel(), minlength=len(names))
        present = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        rows = [[names[i], f"{100 * counts[i] / labels.size:.1f} %"] for i in present]
        return ("class", "area"), rows, [colour(i) for i in present]
    if "pred_label" in prediction:
        shares = prediction.pred_score.numpy()
        require_names(np.arange(len(shares)), names)
        best = [int(i) for i in np.argsort(-shares, kind="stable")[:MAX_CLASSES]]
        return (
            ("class", "score"),
            [[names[i], f"{100 * shares[i]:.1f} %"] for i in best],
            [colour(i) for i in best],
        )
    objects = prediction.pred_instances
    objects = objects[objects.scores >= score_thr]
    objects = objects[objects.scores.argsort(descending=True)][:MAX_ROWS]
    require_names(objects.labels.numpy(), names)
    columns = ["class", "score", "left, top, right, bottom"]
    rows = [
        [names[label], f"{score:.2f}", ", ".join(f"{side:.0f}" for side in box)]
        for label, score, box in zip(
            objects.labels.tolist(), objects.scores.tolist(), objects.bboxes.tolist(), strict=True
        )
    ]
    if "masks" in objects:
        columns.append("mask, pixels")
        for row, area in zip(rows, objects.masks.sum((1, 2)).tolist(), strict=True):
            row.append(str(area))
    return columns, rows, [colour(label) for label in objects.labels.tolist()]


def to_html(name: str, result: Result) -> str:
    """Return the table of a result, with its colours as legend, and the timings."""
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in result.columns)
    rows = "".join(
        f"<tr><td><span class='hb-swatch' style='background: rgb{colour}'></span>"
        + "</td><td>".join(map(html.escape, row))
        + "</td></tr>"
        for row, colour in zip(result.rows, result.colours, strict=True)
    )
    nothing = "" if result.rows else "<p>Nothing found; try a lower score.</p>"
    return (
        f"<h3>{html.escape(name)}</h3><table class='hb-table'><tr>{heads}</tr>{rows}</table>"
        f"{nothing}<p class='hb-note'>{html.escape(result.words)}</p>"
    )


def build(models: Models) -> None:
    """Lay out the tab."""
    names = [model.name for model in models.of(*TASKS)]
    start = names[0] if names else None

    @reporting
    def run(
        upload: str | None,
        first: str | None,
        second: str | None,
        score_thr: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio fills it in)
    ) -> Iterator[tuple[Any, ...]]:
        picture, lowest = read_upload(upload), read_score(score_thr)
        others = [] if second in (None, NONE) else [second]
        chosen = [models.named(name) for name in (first, *others)]
        shown: list[Any] = [None, "", gr.Column(visible=len(chosen) > 1), None, ""]
        for i, model in enumerate(chosen):
            progress((i, len(chosen)), desc=model.doing)
            result = find(model, picture, lowest)
            shown[3 * i : 3 * i + 2] = result.drawn, to_html(model.name, result)
            yield tuple(shown)

    gr.Markdown("Choose a picture and a model, then **Run**. A second model is drawn beside it.")
    with gr.Row():
        with gr.Column(min_width=280):
            upload = picture_field("Picture", "detect-picture")
        with gr.Column(min_width=280):
            first = gr.Dropdown(names, value=start, label="Model", elem_id="detect-model")
            second = gr.Dropdown(
                [NONE, *names], value=NONE, label="Second model", elem_id="detect-second"
            )
            score_thr = gr.Slider(
                *(0, 1, 0.3),
                step=0.01,
                label="Lowest score",
                info="Detections below it are left out.",
                elem_id="detect-score",
            )
            with gr.Row():
                button = gr.Button("Run", variant="primary", elem_id="detect-run")
                cancel = gr.Button("Cancel", elem_id="detect-cancel")
    with gr.Row():
        with gr.Column(min_width=280):
            left = result_field("Found", "detect-left")
            left_table = gr.HTML(elem_id="detect-left-table", padding=True)
        with gr.Column(min_width=280, visible=False) as beside:
            right = result_field("Found by the second model", "detect-right")
            right_table = gr.HTML(elem_id="detect-right-table", padding=True)
    event = button.click(
        run,
        inputs=[upload, first, second, score_thr],
        outputs=[left, left_table, beside, right, right_table],
        api_visibility="private",
    )
    cancel.click(None, cancels=[event], api_visibility="private")

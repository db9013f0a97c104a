"""Tab Look inside: what a network looks at, from the place that the user clicks on."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.dataset import pseudo_collate
from mmengine.visualization.utils import img_from_canvas

from ..explain.command import ALL, input_panels
from ..explain.features import stage_paths
from ..explain.look import attending_modules
from ..explain.panels import Panel, draw_figure
from ..explain.scene import Scene
from ..explain.subject import Subject, find_subject
from ..explain.views import VIEWS
from ..inference.pictures import picture_size, resize
from .handlers import reporting, require_chosen
from .images import Picture, picture_field, read_upload, result_field
from .models import Loaded, Model, Models

TASKS = ("detect", "segment", "classify")
LAST = "the last of each stage"
# what there is to see, in words
WHAT = {
    "attention": "attention of the position",
    "routes": "routes of BiFormer",
    "rates": "rates of ACmix, gates of MixFormer",
    "tokens": "tokens: kept ones of UniFormerLight, weights of SwiftFormer",
    "kernel": "kernels of X-volution and UniFormer",
    "cam": "Grad-CAM of what is found",
    "erf": "effective receptive field of the position",
    "features": "features of the stages",
}
CHOICES = [
    *((WHAT.get(name, name), name) for name in VIEWS),
    ("all there is (takes a while)", ALL),
]


def layers_of(model: Model) -> list[str]:
    """Return the layers of a model that one can look at.

    Raises:
        ValueError: if the model cannot be loaded.
    """
    with model.in_use() as loaded:
        return sorted({*attending_modules(loaded.net), *stage_paths(loaded.net)})


def enlarge(picture: Picture) -> np.ndarray:
    """Return the picture to click into, large enough to hit a pixel of the mini set."""
    return resize(picture.pixels, picture_size(*picture.pixels.shape[:2]), fill=255)


def place_of(click: tuple[float, float], picture: Picture, meta: dict[str, Any]) -> tuple[int, int]:
    """Return the pixel of the network's input, (y, x), that shows a clicked place.

    Pipelines scale a picture, and may then crop its middle.

    Args:
        click: column and row, (x, y), of :func:`enlarge`.
        picture: picture of :func:`read_upload`.
        meta: meta information of the prepared image.

    Raises:
        ValueError: if the network does not see this place.
    """
    height, width = picture.pixels.shape[:2]
    drawn = picture_size(height, width)[::-1]
    seen = meta["img_shape"][1::-1]
    x, y = (
        int((place + 0.5) * size / whole * scale - (round(size * scale) - side) // 2)
        for place, whole, size, scale, side in zip(
            *(click, drawn, (width, height), meta.get("scale_factor", (1, 1))[:2], seen),
            strict=True,
        )
    )
    if not (0 <= x < seen[0] and 0 <= y < seen[1]):
        raise ValueError("The network does not see this place: click further inside the picture.")
    return y, x


def prepare(loaded: Loaded, picture: Picture, click: tuple[float, float] | None) -> Subject:
    """Prepare a picture to look into a network.

    Args:
        loaded: model in use.
        picture: picture of :func:`read_upload`.
        click: (x, y) of :func:`enlarge`; None looks from where the strongest result is.

    Raises:
        ValueError: if the network does not see the place.
    """
    batch = loaded.net.data_preprocessor(pseudo_collate([loaded.pipeline(picture.item())]), False)
    at = None if click is None else place_of(click, picture, batch["data_samples"][0].metainfo)
    scope, names = loaded.cfg.default_scope, loaded.meta["classes"]
    return find_subject(loaded.net, batch, scope, names, at)


def draw_panel(panel: Panel) -> np.ndarray:
    """Draw one panel as an RGB picture, uint8."""
    return img_from_canvas(FigureCanvasAgg(draw_figure([panel], "")))


def look(
    model: Model, picture: Picture, what: str, layer: str | None, click: tuple[float, float] | None
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Look into a network, step by step.

    Args:
        model: detector, segmentor or classifier.
        picture: picture of :func:`read_upload`.
        what: key of :data:`VIEWS`, or ``'all'``.
        layer: path of the module to look at; None chooses the last of each stage.
        click: (x, y) of :func:`enlarge`; None looks from where the strongest result is.

    Yields:
        title and pictures of each view, first of the input; none where there is nothing to see.

    Raises:
        ValueError: if there is nothing to see of what is asked for.
    """
    with model.in_use() as loaded:
        subject = prepare(loaded, picture, click)
        scene = Scene(subject, layer)
    yield "Input", [draw_panel(panel) for panel in input_panels(subject)]
    num_views = 0
    for name in VIEWS if what == ALL else [what]:
        with model.in_use():
            view = VIEWS[name](scene)
        num_views += view is not None
        # also where there is nothing, so that one can cancel between all steps
        yield (view.title, [draw_panel(p) for p in view.panels]) if view else (WHAT[name], [])
    if not num_views:
        at = "" if layer is None else f" at {layer}"
        raise ValueError(
            f"{model.name} has nothing to show of {WHAT.get(what, what)}{at}: choose "
            "something else."
        )


def build(models: Models) -> None:
    """Lay out the tab."""
    names = [model.name for model in models.of(*TASKS)]
    start = names[0] if names else None

    def show(
        upload: str | None,
        name: str,
        what: str,
        layer: str,
        click: tuple[float, float] | None,
        progress: gr.Progress,
    ) -> Iterator[tuple[list[np.ndarray], str]]:
        picture, model = read_upload(upload), models.named(name)
        require_chosen(what, (*VIEWS, ALL), "What to see")
        chosen = None if layer in (None, LAST) else layer
        shown: list[np.ndarray] = []
        progress(0, desc=model.doing)
        for i, (title, pictures) in enumerate(look(model, picture, what, chosen, click), start=1):
            shown += pictures
            yield shown, f"{picture.note} {title}: {len(shown)} pictures in all.".strip()
            progress((i, len(VIEWS) + 1), desc=title)

    @reporting
    def run(
        upload: str | None,
        name: str,
        what: str,
        layer: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio fills it in)
    ) -> Iterator[tuple[list[np.ndarray], str]]:
        yield from show(upload, name, what, layer, None, progress)

    @reporting
    def run_at(
        upload: str | None,
        name: str,
        what: str,
        layer: str,
        place: gr.SelectData,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio fills it in)
    ) -> Iterator[tuple[list[np.ndarray], str]]:
        yield from show(upload, name, what, layer, tuple(place.index), progress)

    @reporting
    def list_layers(name: str) -> Any:
        return gr.Dropdown([LAST, *layers_of(models.named(name))])

    @reporting
    def start_over(name: str) -> Any:
        return gr.Dropdown([LAST, *layers_of(models.named(name))], value=LAST)

    @reporting
    def show_enlarged(upload: str | None) -> np.ndarray | None:
        return enlarge(read_upload(upload)) if upload else None

    gr.Markdown(
        "Choose a picture, then **click into the large one**: where does the network look from "
        "there? **Look** starts from where the strongest result is."
    )
    with gr.Row():
        with gr.Column(min_width=280):
            upload = picture_field("Picture", "inside-picture", height=190)
            name = gr.Dropdown(names, value=start, label="Model", elem_id="inside-model")
            what = gr.Dropdown(
                CHOICES, value="attention", label="What to see", elem_id="inside-what"
            )
            layer = gr.Dropdown([LAST], value=LAST, label="Layer", elem_id="inside-layer")
            with gr.Row():
                button = gr.Button("Look", variant="primary", elem_id="inside-run")
                cancel = gr.Button("Cancel", elem_id="inside-cancel")
        with gr.Column(min_width=280):
            enlarged = result_field("Click into it", "inside-enlarged")
    words = gr.Markdown(elem_id="inside-words")
    gallery = gr.Gallery(
        columns=3,
        object_fit="contain",
        height="auto",
        format="png",
        interactive=False,
        show_label=False,
        buttons=["fullscreen", "download"],
        elem_id="inside-gallery",
    )
    settings: dict[str, Any] = dict(
        inputs=[upload, name, what, layer], outputs=[gallery, words], api_visibility="private"
    )
    events: list[Any] = [button.click(run, **settings), enlarged.select(run_at, **settings)]
    cancel.click(None, cancels=events, api_visibility="private")
    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")
    upload.change(show_enlarged, upload, enlarged, **quiet)
    name.change(start_over, name, layer, **quiet)
    # the model at the start is loaded only when it is needed
    layer.focus(list_layers, name, layer, **quiet)

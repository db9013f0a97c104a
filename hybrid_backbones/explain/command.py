"""Draw what a trained network looks at in images, and write the numbers beside the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..inference.pictures import plan
from ..locformer.demo import read_sketch
from ..settings import tested_dataset, type_name
from ..training.requirements import require_device, require_keys
from .attention_views import on_paper
from .features import stage_paths
from .look import attending_modules
from .panels import Panel, Picture, View, draw_figure, save_figure
from .scene import Scene
from .subject import FINDERS, Subject, read_subjects
from .views import VIEWS

ALL = "all"
# panels on a summary sheet
MAX_SUMMARY = 16


def look_at(subject: Subject, what: str, layer: str | None) -> dict[str, View]:
    """Make the views of one image, by their names.

    Raises:
        ValueError: if the network has nothing of what is asked for, or no such layer.
    """
    scene = Scene(subject, layer)
    if layer is not None:
        there = {*scene.sizes, *attending_modules(subject.model), *stage_paths(subject.model)}
        if layer not in there:
            raise ValueError(f"no --layer {layer} to look at; there is: {', '.join(sorted(there))}")
    names = [*VIEWS] if what == ALL else [what]
    views = {name: view for name in names if (view := VIEWS[name](scene)) is not None}
    if not views:
        at = "" if layer is None else f" at --layer {layer}"
        raise ValueError(
            f"{type(subject.model).__name__} has nothing to show for --what {what}{at}: use --what "
            "all to see what there is"
        )
    return views


def input_panels(subject: Subject) -> list[Panel]:
    """Draw the image with the position that looks and what was found, and sketches if any."""
    height, width = subject.pixels.shape[:2]
    boxes = [] if subject.box is None else [(subject.box, "lime", "detection")]
    y, x = subject.position
    image = Picture(
        f"{subject.found}\nposition ({y}, {x}) of {height}×{width}",
        subject.pixels,
        (height, width),
        boxes=boxes,
        mark=(y + 0.5, x + 0.5),
    )
    if subject.strokes is None:
        return [image]
    number, *size = subject.strokes.shape
    title = "the sketch" if number == 1 else f"the {number} sketches"
    return [image, Picture(title, on_paper(subject.strokes), (size[0], number * size[1]))]


def write_views(subject: Subject, views: Mapping[str, View], name: str, out: Path) -> list[Path]:
    """Write figures, numbers and the summary sheet of one image into a folder.

    Returns:
        paths of the written files.
    """
    out.mkdir(parents=True, exist_ok=True)
    first, written = input_panels(subject), []
    for what, view in views.items():
        figure = draw_figure([*first, *view.panels], f"{view.title} · {name}")
        written += save_figure(figure, out / what)
        # the arrays have paths of modules as names
        np.savez_compressed(out / f"{what}.npz", **view.numbers)  # type: ignore[arg-type]
        written.append(out / f"{what}.npz")
    if len(views) > 1:
        best = [
            view.panels[i] for view in views.values() for i in view.best if i < len(view.panels)
        ]
        sheet = draw_figure([*first, *best][:MAX_SUMMARY], f"Inside the network · {name}")
        written += save_figure(sheet, out / "summary")
    return written


def explain(
    cfg: Config,
    image: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    what: str = ALL,
    layer: str | None = None,
    at: tuple[int, int] | None = None,
    sketches: Sequence[str] = (),
    device: str = "cpu",
) -> list[Path]:
    """Draw what a model looks at in an image, or in each image of a folder.

    Args:
        cfg: config of a detector, by sketch or not, segmentor or classifier.
        image: image file or folder of images.
        checkpoint: checkpoint of the model.
        out: folder for the pictures; for a folder of images, with a folder for each. Pictures of
            an earlier run in it are overwritten.
        what: key of :data:`VIEWS`, or ``'all'``.
        layer: path of the module to look at; None chooses the last of each stage.
        at: position (y, x) to look from, in pixels of the network's input; None looks from where
            the strongest result is.
        sketches: of a detector by sketch, what to search for: image files, FILE.ndjson or
            FILE.ndjson:INDEX, as many as the config takes.
        device: device of the model, such as 'cpu' or 'cuda:0'.

    Returns:
        paths of the written files.

    Raises:
        ValueError: if a file is missing, damaged, does not fit the model or cannot be written, or
            the model has nothing of what is asked for.
    """
    require_keys(cfg, "default_scope", "model", "test_dataloader")
    dataset = tested_dataset(cfg)
    by_sketch = type_name(dataset.type) == "SketchCocoDataset"
    if by_sketch and not sketches:
        raise ValueError("the config searches by sketch: say which one by --sketch FILE")
    if sketches and not by_sketch:
        raise ValueError("--sketch is for configs that search by sketch, such as locformer_swin_t")
    if by_sketch and len(sketches) > (limit := dataset.get("num_sketches", 1)):
        raise ValueError(f"--sketch: the config takes up to {limit} sketches, got {len(sketches)}")
    if cfg.default_scope not in FINDERS:
        raise ValueError(f"default_scope must be one of {[*FINDERS]}, got {cfg.default_scope!r}")
    require_device(device)
    out, is_folder = Path(out), Path(image).is_dir()
    if out.is_file():
        raise ValueError(f"--out {out} is a file: expected a folder")
    given = Path(image).resolve()
    if not is_folder and given in {out.resolve() / f"{name}.png" for name in (*VIEWS, "summary")}:
        raise ValueError(f"{image} would be overwritten: choose another folder for --out")
    existed, written = out.exists(), list[Path]()
    try:
        # checks the images, and that the folder can be written
        images = plan(image, out if is_folder else out / "summary.png", checkpoint, *sketches)
        for path in images if is_folder else ():
            if (out / Path(path).name).is_file():
                raise ValueError(f"{out / Path(path).name} is a file: choose another --out")
        init_default_scope(cfg.default_scope)
        drawn = np.concatenate([read_sketch(cfg, x) for x in sketches]) if sketches else None
        for path, subject in read_subjects(cfg, images, checkpoint, device, at, drawn):
            folder = out / path.name if is_folder else out
            files = write_views(subject, look_at(subject, what, layer), path.name, folder)
            print_log(f"saved {len(files)} files to {folder}")
            written += files
    finally:
        # a mistake leaves no folder behind
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return written

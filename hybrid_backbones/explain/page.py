"""Write the page that shows a picture of each operator, of models trained on the mini set."""

import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from PIL import Image

from ..inference.demo import build_visualizer, draw, predict
from ..locformer.demo import read_sketch
from ..mini.preset import apply_mini
from ..training.mini_models import find_finished
from .command import input_panels
from .gallery import ENTRIES, FRONT, FRONT_SCORE, FRONT_TITLES, Entry
from .panels import Panel, Picture, View, draw_figure
from .scene import Scene
from .subject import Subject, read_subjects
from .views import VIEWS

# a page is some 900 pixels wide: letters are readable if a figure is some 10 inches wide
COLUMNS, PANEL_WIDTH, DPI = 3, 3.4, 220
# of a picture, so that it is small
NUM_COLOURS, KMEANS_ROUNDS = 256, 2
HEAD = """# What the networks look at

One picture for each operator, of small models trained on the mini set (`--mini`), which draws its
own images: squares, discs, crosses, stars, triangles and rings. `python tools/inside.py` made the
pictures and this page. Each picture shows panels of the figure that the command below it writes,
with further panels, as PNG and PDF, and the numbers as `.npz`; `--at Y X` looks from another
position, `--layer PATH` at another module. The commands need a trained model, which
`python tools/train.py configs/CONFIG.py --mini` writes, with the same `--cfg-options` where a
command has some.

The models were trained for minutes, so they show how an operator works and what it can be asked,
not what it learns from millions of photographs. Weights are at most as fine as the feature map:
one position of the last stage stands for 32×32 pixels.
"""


class Trained(NamedTuple):
    """A config for the mini set, and a checkpoint of it."""

    cfg: Config
    checkpoint: Path


def flags_of(options: Mapping[str, int]) -> str:
    """Return the flag for changes of a config, after a space, or nothing."""
    changes = " ".join(f"{key}={value}" for key, value in options.items())
    return f" --cfg-options {changes}" if changes else ""


def training_of(entry: Entry, work_dirs: Path) -> str:
    """Return the command that trains the model of an entry."""
    return (
        f"python tools/train.py configs/{entry.config}.py --mini "
        f"--work-dir {work_dirs}/{entry.config}_mini{flags_of(entry.options)}"
    )


def config_of(entry: Entry, configs: Path) -> Config:
    """Return the config with which the model of an entry is trained and looked at."""
    cfg = Config.fromfile(configs / f"{entry.config}.py")
    cfg.merge_from_dict(entry.options)
    apply_mini(cfg)
    return cfg


def find_trained(entries: Iterable[Entry], configs: Path, work_dirs: Path) -> dict[str, Trained]:
    """Find the trained models of entries, by the name of the config.

    Raises:
        ValueError: if trainings are missing or unfinished; the message has the command for each.
    """
    trained, missing = {}, []
    models = {entry.config: entry for entry in entries}
    for name, entry in models.items():
        cfg = config_of(entry, configs)
        checkpoint = find_finished(work_dirs / f"{name}_mini", cfg)
        if checkpoint is None:
            missing.append(training_of(entry, work_dirs))
        else:
            trained[name] = Trained(cfg, checkpoint)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(models)} models are not trained yet: {'; '.join(missing)}"
        )
    return trained


def read_subject(entry: Entry, trained: Trained) -> Subject:
    """Prepare the image of an entry and its network."""
    cfg, checkpoint = trained
    init_default_scope(cfg.default_scope)
    sketches = read_sketch(cfg, entry.sketch) if entry.sketch else None
    image = Path(entry.image)
    ((_, subject),) = read_subjects(cfg, [image], checkpoint, "cpu", sketches=sketches)
    return subject


def choose_panels(entry: Entry, subject: Subject) -> Iterator[Panel]:
    """Draw what an entry shows, after the image itself."""
    yield from input_panels(subject)
    for what, indices, layer in entry.panels:
        view = VIEWS[what](Scene(subject, layer))
        assert isinstance(view, View), f"{entry.config} has nothing to show for {what}"
        yield from (view.panels[i] for i in indices)


def draw_front(trained: Trained) -> list[Panel]:
    """Draw the detections of the picture of the README, and what the network looks at."""
    cfg, checkpoint = trained
    subject = read_subject(FRONT, trained)
    ((_, pixels, prediction),) = predict(cfg, [Path(FRONT.image)], checkpoint, "cpu")
    visualizer = build_visualizer(cfg, checkpoint)
    drawn = draw(visualizer, pixels, prediction, FRONT_SCORE) / 255
    names = visualizer.dataset_meta["classes"]
    objects = prediction.pred_instances
    boxes = [
        ((x1, y1, x2 - x1, y2 - y1), f"C{i}", f"{names[label]} {score:.2f}")
        for i, ((x1, y1, x2, y2), label, score) in enumerate(
            zip(*(objects[key].tolist() for key in ("bboxes", "labels", "scores")), strict=True)
        )
        if score >= FRONT_SCORE
    ]
    height, width = pixels.shape[:2]
    _, *panels = choose_panels(FRONT, subject)
    for panel, title in zip(panels, FRONT_TITLES, strict=True):
        panel.title = title
    title = "detections, with masks"
    return [Picture(title, drawn, (height, width), boxes=boxes), *panels]


def save_picture(entry: Entry, panels: Sequence[Panel], folder: Path) -> None:
    """Write the picture of an entry as PNG of few colours into a folder."""
    figure = draw_figure(panels, entry.heading, columns=COLUMNS, width=PANEL_WIDTH)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    with Image.open(buffer) as picture:
        small = picture.convert("RGB").quantize(
            NUM_COLOURS, kmeans=KMEANS_ROUNDS, dither=Image.Dither.NONE
        )
    path = folder / f"{entry.name}.png"
    small.save(path, optimize=True)
    print_log(f"saved to {path}")


def commands_of(entry: Entry, checkpoint: Path) -> list[str]:
    """Return the commands that write the figures from which an entry has its panels."""
    extras = flags_of(entry.options)
    extras += f" \\\n    --sketch {entry.sketch}" if entry.sketch else ""
    commands = []
    for what, _, layer in entry.panels:
        looks = f"--what {what} --layer {layer}" if layer else f"--what {what}"
        commands.append(
            f"python tools/explain.py {entry.image} configs/{entry.config}.py \\\n"
            f"    work_dirs/{entry.config}_mini/{checkpoint.name} --mini \\\n"
            f"    --out work_dirs/inside/{entry.name} {looks}{extras}"
        )
    return commands


def write_entry(entry: Entry, checkpoint: Path) -> str:
    """Return the section of an entry, in Markdown."""
    operators = ", ".join(f"`{kind.__name__}`" for kind in entry.operators)
    shown = f"{operators}, in `{entry.config}`." if operators else f"`{entry.config}`."
    commands = "\n".join(commands_of(entry, checkpoint))
    return (
        f"## {entry.heading}\n\n{shown}\n\n![{entry.heading}](inside/{entry.name}.png)\n\n"
        f"{textwrap.fill(entry.caption, 100)}\n\n```bash\n{commands}\n```\n"
    )


def write_page(
    configs: str | Path,
    work_dirs: str | Path,
    out: str | Path,
    entries: Sequence[Entry] = ENTRIES,
    *,
    with_front: bool = True,
) -> Path:
    """Draw all pictures into the folder `inside`, and write ``inside.md`` beside it.

    Args:
        configs: folder of the configs.
        work_dirs: folder of the work dirs of models trained on the mini set.
        out: folder for the page.
        entries: what is on the page.
        with_front: whether to draw the picture of the README, too.

    Returns:
        path of the page.

    Raises:
        ValueError: if a model is not trained.
    """
    out, front = Path(out), [FRONT] if with_front else []
    trained = find_trained([*front, *entries], Path(configs), Path(work_dirs))
    pictures = out / "inside"
    pictures.mkdir(parents=True, exist_ok=True)
    for entry in front:
        save_picture(entry, draw_front(trained[entry.config]), pictures)
    for entry in entries:
        subject = read_subject(entry, trained[entry.config])
        save_picture(entry, [*choose_panels(entry, subject)], pictures)
    page = out / "inside.md"
    sections = [write_entry(entry, trained[entry.config].checkpoint) for entry in entries]
    page.write_text("\n".join([HEAD, *sections]))
    return page

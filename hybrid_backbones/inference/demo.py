"""Draw what a model sees in images."""

import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmcv.transforms import Compose
from mmdet.visualization import get_palette
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from mmengine.visualization.utils import img_from_canvas
from torch import nn

from ..checkpoints import dataset_meta, load_trained
from ..training.launch import require_device
from ..training.requirements import require_keys, require_score
from .pictures import load_each, picture_size, pixels_of, plan, resize, write

# of the legend of a map, in inches
LEGEND_WIDTH, LINE_HEIGHT = 2.5, 0.2
# classes that it names
MAX_LEGEND = 20


def build_trained(cfg: Config, checkpoint: str | Path, device: str) -> nn.Module:
    """Build the model of a config for prediction, and load a checkpoint of it.

    Raises:
        ValueError: the file is missing, broken or does not fit.
    """
    init_default_scope(cfg.default_scope)
    settings = cfg.model.copy()
    # where mmpretrain's configs have it; a training puts it there, too
    settings.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    model = MODELS.build(settings)
    load_trained(model, checkpoint)
    return model.to(device).eval()


def build_pipeline(cfg: Config, *without: str) -> tuple[Callable[[dict], dict], Compose]:
    """Build the pipeline of a config's test data, but for annotations and other steps.

    Returns:
        the first step, which loads the image, and the rest.
    """
    # the type may be written with its scope
    steps = [
        step
        for step in cfg.test_dataloader.dataset.pipeline
        if step["type"].rpartition(".")[2] not in ("LoadAnnotations", *without)
    ]
    load, *rest = Compose(steps).transforms
    return load, Compose(rest)


@torch.no_grad()
def predict(
    cfg: Config, images: Iterable[Path], checkpoint: str | Path, device: str
) -> Iterator[tuple[Path, np.ndarray, BaseDataElement]]:
    """Build the model of a config, load a checkpoint of it and run it on images.

    Yields:
        the file, the image as RGB, (H, W, 3), and the prediction, of the framework's own type.

    Raises:
        ValueError: where a file is missing, broken or does not fit.
    """
    model = build_trained(cfg, checkpoint, device)
    load, pipeline = build_pipeline(cfg)
    for image, item in load_each(load, images):
        # the image that is drawn is that which the model sees, turned as its meta data says
        pixels = pixels_of(item)
        prediction = model.test_step(pseudo_collate([pipeline(item)]))[0]
        yield image, pixels, prediction.cpu()


def read_dataset_meta(cfg: Config, checkpoint: str | Path) -> dict:
    """Read the names of the classes and their colours from a checkpoint, or else from the config.

    Published checkpoints do not say their classes.

    Returns:
        ``classes``, names, and ``palette``, as many colours, RGB.

    Raises:
        ValueError: neither says the classes.
    """
    found = dataset_meta(checkpoint)
    if found is None:
        # lazily: no file of the data set is looked at
        dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True, pipeline=[]))
        found = dataset.metainfo
    classes, palette = found.get("classes"), found.get("palette")
    if not classes:
        raise ValueError(
            f"neither {checkpoint} nor its data set says the classes: use a checkpoint that "
            "tools/train.py saved, or set test_dataloader.dataset.metainfo.classes"
        )
    if not isinstance(palette, list | tuple) or len(palette) < len(classes):
        palette = get_palette("random", len(classes))
    return dict(classes=list(map(str, classes)), palette=[tuple(color) for color in palette])


def build_visualizer(cfg: Config, checkpoint: str | Path) -> Visualizer:
    """Build the framework's visualizer, which knows names and colours of the classes."""
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name="demo"))
    visualizer.dataset_meta = read_dataset_meta(cfg, checkpoint)
    return visualizer


def draw(
    visualizer: Visualizer, pixels: np.ndarray, prediction: BaseDataElement, score_thr: float
) -> np.ndarray:
    """Draw a prediction over its image.

    Detections become boxes, masks and scores, a segmentation a colour map with a legend, a
    classification the name and score of the class. Small images are enlarged.

    Args:
        visualizer: of the framework, with what :func:`read_dataset_meta` returned.
        pixels: the image, (H, W, 3).
        prediction: of :func:`predict`.
        score_thr: boxes of a lower score are not drawn.

    Returns:
        the picture, RGB, uint8.

    Raises:
        ValueError: there is no name for a class that was predicted.
    """
    if "pred_sem_seg" in prediction:
        return _draw_map(pixels, prediction.pred_sem_seg.data[0].numpy(), visualizer.dataset_meta)
    if "pred_label" in prediction:
        return _draw_class(visualizer, pixels, prediction)
    return _draw_objects(visualizer, pixels, prediction, score_thr)


def _draw_class(
    visualizer: Visualizer, pixels: np.ndarray, prediction: BaseDataElement
) -> np.ndarray:
    """Write the name and score of the class on the image."""
    names = visualizer.dataset_meta["classes"]
    _require_names(prediction.pred_label.numpy(), names)
    canvas = resize(pixels, picture_size(*pixels.shape[:2]), fill=255)
    height, width = canvas.shape[:2]
    return visualizer.visualize_cls(
        canvas,
        prediction,
        # lines and letters that fit into the picture
        classes=[textwrap.fill(name, 30) for name in names],
        text_cfg=dict(size=min(width / 50, height / 6)),
        draw_gt=False,
    )


def _draw_objects(
    visualizer: Visualizer, pixels: np.ndarray, prediction: BaseDataElement, score_thr: float
) -> np.ndarray:
    """Draw boxes and masks with names and scores."""
    objects = prediction.pred_instances
    objects = objects[objects.scores >= score_thr]
    _require_names(objects.labels.numpy(), visualizer.dataset_meta["classes"])
    size = picture_size(*pixels.shape[:2])
    canvas = resize(pixels, size, fill=255)
    scale = [size[1] / pixels.shape[1], size[0] / pixels.shape[0]]
    objects.bboxes = objects.bboxes * objects.bboxes.new_tensor(2 * scale)
    if "masks" in objects:
        masks = [resize(mask, size, fill=0) for mask in objects.masks.byte().numpy()]
        objects.masks = torch.tensor(np.array(masks, bool).reshape(-1, *canvas.shape[:2]))
    # all that is left is drawn
    visualizer.add_datasample(
        "", canvas, type(prediction)(pred_instances=objects), draw_gt=False, pred_score_thr=-1
    )
    return visualizer.get_image()


def _draw_map(pixels: np.ndarray, labels: np.ndarray, meta: dict) -> np.ndarray:
    """Draw a label map over its image, the classes that occur in a legend, largest first."""
    names, palette = meta["classes"], np.array(meta["palette"], dtype=np.uint8)
    _require_names(labels, names)
    counts = np.bincount(labels.ravel(), minlength=len(names))
    present = [i for i in np.argsort(-counts) if counts[i]]
    entries = [
        Patch(color=palette[i] / 255, label=f"{names[i]} {100 * counts[i] / labels.size:.1f} %")
        for i in present[:MAX_LEGEND]
    ]
    if len(present) > MAX_LEGEND:
        entries.append(Patch(alpha=0, label=f"and {len(present) - MAX_LEGEND} more"))
    blended = (pixels * 0.5 + palette[labels] * 0.5).astype(np.uint8)
    blended = resize(blended, picture_size(*labels.shape), fill=255)
    # text grows with large images, which are looked at whole
    dpi = max(100, max(blended.shape) / 8)
    height, width = (side / dpi for side in blended.shape[:2])
    figure = Figure((width + LEGEND_WIDTH, max(height, LINE_HEIGHT * (len(entries) + 1))), dpi=dpi)
    share = height / figure.get_figheight()
    axes = figure.add_axes((0, 1 - share, width / figure.get_figwidth(), share))
    axes.imshow(blended, aspect="auto")
    axes.axis("off")
    figure.legend(handles=entries, loc="center right", frameon=False, fontsize=9)
    return img_from_canvas(FigureCanvasAgg(figure))


def _require_names(labels: np.ndarray, names: list[str]) -> None:
    if labels.size and labels.max() >= len(names):
        raise ValueError(
            f"there are names of {len(names)} classes, but class {labels.max()} was predicted, "
            "counted from 0: see dataset_meta in the checkpoint, or metainfo of the config's data"
        )


def demo(
    cfg: Config,
    image: str | Path,
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    device: str = "cpu",
    score_thr: float = 0.3,
) -> list[Path]:
    """Draw what a model predicts on an image, or on each image of a folder.

    Args:
        cfg: config of the model.
        image: file or folder.
        checkpoint: of the model.
        out: picture to write, or folder for those of a folder.
        device: where to run.
        score_thr: boxes of a lower score are not drawn.

    Returns:
        the pictures that were written.

    Raises:
        ValueError: where a file is missing, broken, does not fit or cannot be written.
    """
    require_keys(cfg, "default_scope", "model", "test_dataloader", "visualizer")
    if cfg.test_dataloader.dataset.type == "SketchCocoDataset":
        raise ValueError("the config searches by sketch: use tools/sketch_demo.py")
    require_device(device)
    require_score(score_thr)
    outs = plan(image, out, checkpoint)
    init_default_scope(cfg.default_scope)
    visualizer, written = build_visualizer(cfg, checkpoint), []
    for path, pixels, prediction in predict(cfg, outs, checkpoint, device):
        write(draw(visualizer, pixels, prediction, score_thr), outs[path])
        written.append(outs[path])
    return written

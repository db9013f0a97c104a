"""Predict on images with a trained model and draw the results.

The hosts' visualisers draw. Their inferencers are not used: each has other arguments and outputs,
and they load checkpoints non-strictly.
"""

import textwrap
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from mmengine.visualization.utils import img_from_canvas

from ..checkpoints import dataset_meta, load_trained
from ..datasets.inspection.lettering import plain
from ..datasets.loading import STRICT
from ..datasets.palette import palette_for
from ..settings import tested_dataset, tested_metainfo, type_name
from ..training.requirements import require_device, require_keys, require_score
from .pictures import load_each, picture_size, pixels_of, plan, resize, write

# size of the legend of a segmentation map, in inches
LEGEND_WIDTH, LINE_HEIGHT = 2.5, 0.2
# largest number of classes in the legend
MAX_LEGEND = 20


def build_trained(cfg: Config, checkpoint: str | Path, device: str) -> BaseModel:
    """Build the model of a config in evaluation mode and load a checkpoint.

    Raises:
        ValueError: if the checkpoint is missing, damaged or does not fit the model.
    """
    init_default_scope(cfg.default_scope)
    # models of the DETR family write into their settings, from which they cannot be built again
    settings = deepcopy(cfg.model)
    # mmpretrain's configs define it at the top level; mmengine's runner also moves it to the model
    settings.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    model = MODELS.build(settings)
    load_trained(model, checkpoint)
    return model.to(device).eval()


def build_pipeline(cfg: Config, *without: str) -> tuple[Callable[[dict], dict], Compose]:
    """Build the test pipeline of a config, split after the step that loads the image.

    mmcv's loader of colour images gets the strict decoder, which names files that are no images,
    and takes no others than a training does.

    Args:
        cfg: config with a `test_dataloader`.
        *without: types of steps to drop, in addition to `LoadAnnotations`.

    Returns:
        first step, which loads the image, and the remaining pipeline.
    """
    steps = [
        step
        for step in tested_dataset(cfg).pipeline
        if type_name(step["type"]) not in ("LoadAnnotations", *without)
    ]
    load, *rest = Compose(steps).transforms
    # any other loader gives values that the strict one does not, such as grey ones
    in_colour = type(load) is LoadImageFromFile and load.color_type == "color"
    if in_colour and load.imdecode_backend != "tifffile":
        # files of the command line are on the disk, and need no settings of a file backend
        load = LoadImageFromFile(load.to_float32, imdecode_backend=STRICT)
    return load, Compose(rest)


@torch.no_grad()
def predict(
    cfg: Config, images: Iterable[Path], checkpoint: str | Path, device: str
) -> Iterator[tuple[Path, np.ndarray, BaseDataElement]]:
    """Build the model of a config, load a checkpoint and run it on images.

    Yields:
        image file, RGB image, (H, W, 3), and prediction, a data sample of the framework.

    Raises:
        ValueError: if a file is missing, damaged or does not fit the model.
    """
    model = build_trained(cfg, checkpoint, device)
    load, pipeline = build_pipeline(cfg)
    for image, item in load_each(load, images):
        # draw the image as loaded, rotated by its EXIF orientation, which the predictions refer to
        pixels = pixels_of(item)
        prediction = model.test_step(pseudo_collate([pipeline(item)]))[0]
        yield image, pixels, prediction.cpu()


def read_dataset_meta(cfg: Config, checkpoint: str | Path) -> dict:
    """Read class names and colours from a checkpoint, or from the config if it has none.

    Published checkpoints do not contain class names.

    Returns:
        dict of ``classes``, a list of names, and ``palette``, a list of RGB colours.

    Raises:
        ValueError: if neither names the classes.
    """
    found = dataset_meta(checkpoint)
    if found is None:
        found = tested_metainfo(cfg)
    classes = found.get("classes")
    if not classes:
        raise ValueError(
            f"neither {checkpoint} nor the test dataset of the config names the classes: use a "
            "checkpoint of hb train, or set test_dataloader.dataset.metainfo.classes"
        )
    # data sets of the hosts and their checkpoints may have too few colours, classifiers have none
    palette = palette_for(found.get("palette"), len(classes))
    return dict(classes=list(map(str, classes)), palette=palette)


def build_visualizer(cfg: Config, checkpoint: str | Path) -> Visualizer:
    """Build the framework's visualizer, with the names and colours of the classes."""
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name="demo"))
    visualizer.dataset_meta = read_dataset_meta(cfg, checkpoint)
    return visualizer


def draw(
    visualizer: Visualizer, pixels: np.ndarray, prediction: BaseDataElement, score_thr: float
) -> np.ndarray:
    """Draw a prediction over its image.

    Draws boxes, masks and scores for detection, a colour map with a legend for segmentation, and
    the name and score of the class for classification. Small images are enlarged.

    Args:
        visualizer: visualizer of :func:`build_visualizer`.
        pixels: RGB image, (H, W, 3).
        prediction: data sample of :func:`predict`.
        score_thr: lowest score of the boxes to draw.

    Returns:
        figure, RGB, uint8.

    Raises:
        ValueError: if a predicted class has no name.
    """
    if "pred_sem_seg" in prediction:
        return _draw_map(pixels, prediction.pred_sem_seg.data[0].numpy(), visualizer.dataset_meta)
    if "pred_label" in prediction:
        return _draw_class(visualizer, pixels, prediction)
    return _draw_objects(visualizer, pixels, prediction, score_thr)


def _draw_class(
    visualizer: Visualizer, pixels: np.ndarray, prediction: BaseDataElement
) -> np.ndarray:
    """Draw the name and score of the class on the image."""
    names = visualizer.dataset_meta["classes"]
    require_names(prediction.pred_label.numpy(), names)
    canvas = resize(pixels, picture_size(*pixels.shape[:2]), fill=255)
    height, width = canvas.shape[:2]
    return visualizer.visualize_cls(
        canvas,
        prediction,
        # wrap lines and scale letters to fit into the figure
        classes=[textwrap.fill(plain(name), 30) for name in names],
        text_cfg=dict(size=min(width / 50, height / 6)),
        draw_gt=False,
    )


def _draw_objects(
    visualizer: Visualizer, pixels: np.ndarray, prediction: BaseDataElement, score_thr: float
) -> np.ndarray:
    """Draw boxes and masks with names and scores."""
    objects, meta = prediction.pred_instances, visualizer.dataset_meta
    objects = objects[objects.scores >= score_thr]
    require_names(objects.labels.numpy(), meta["classes"])
    size = picture_size(*pixels.shape[:2])
    canvas = resize(pixels, size, fill=255)
    scale = [size[1] / pixels.shape[1], size[0] / pixels.shape[0]]
    objects.bboxes = objects.bboxes * objects.bboxes.new_tensor(2 * scale)
    if "masks" in objects:
        masks = [resize(mask, size, fill=0) for mask in objects.masks.byte().numpy()]
        objects.masks = torch.tensor(np.array(masks, bool).reshape(-1, *canvas.shape[:2]))
    visualizer.dataset_meta = dict(meta, classes=[*map(plain, meta["classes"])])
    try:
        # the score threshold has been applied above
        visualizer.add_datasample(
            "", canvas, type(prediction)(pred_instances=objects), draw_gt=False, pred_score_thr=-1
        )
    finally:
        visualizer.dataset_meta = meta
    return visualizer.get_image()


def _draw_map(pixels: np.ndarray, labels: np.ndarray, meta: dict) -> np.ndarray:
    """Draw a label map over its image, with a legend of its classes in descending order of area."""
    names, palette = meta["classes"], np.array(meta["palette"], dtype=np.uint8)
    require_names(labels, names)
    counts = np.bincount(labels.ravel(), minlength=len(names))
    present = [i for i in np.argsort(-counts) if counts[i]]
    entries = [
        Patch(
            color=palette[i] / 255, label=f"{plain(names[i])} {100 * counts[i] / labels.size:.1f} %"
        )
        for i in present[:MAX_LEGEND]
    ]
    if len(present) > MAX_LEGEND:
        entries.append(Patch(alpha=0, label=f"and {len(present) - MAX_LEGEND} more"))
    blended = (pixels * 0.5 + palette[labels] * 0.5).astype(np.uint8)
    blended = resize(blended, picture_size(*labels.shape), fill=255)
    # scale the text with large images, since viewers shrink them to the screen
    dpi = max(100, max(blended.shape) / 8)
    height, width = (side / dpi for side in blended.shape[:2])
    figure = Figure((width + LEGEND_WIDTH, max(height, LINE_HEIGHT * (len(entries) + 1))), dpi=dpi)
    share = height / figure.get_figheight()
    axes = figure.add_axes((0, 1 - share, width / figure.get_figwidth(), share))
    axes.imshow(blended, aspect="auto")
    axes.axis("off")
    figure.legend(handles=entries, loc="center right", frameon=False, fontsize=9)
    return img_from_canvas(FigureCanvasAgg(figure))


def require_names(labels: np.ndarray, names: list[str]) -> None:
    """Check that predicted classes have names.

    Raises:
        ValueError: if one has none.
    """
    if labels.size and labels.max() >= len(names):
        raise ValueError(
            f"there are names of {len(names)} classes, but class {labels.max()} was predicted, "
            "counted from 0: check dataset_meta of the checkpoint, or metainfo of the test dataset"
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
    """Draw the predictions of a model on an image, or on each image of a folder.

    Args:
        cfg: config of the model.
        image: image file or folder of images.
        checkpoint: checkpoint of the model.
        out: figure to write, or folder of figures if `image` is a folder.
        device: device of the model, such as 'cpu' or 'cuda:0'.
        score_thr: lowest score of the boxes to draw, from 0 to 1.

    Returns:
        paths of the written figures.

    Raises:
        ValueError: if a file is missing, damaged, does not fit the model or cannot be written.
    """
    require_keys(cfg, "default_scope", "model", "test_dataloader", "visualizer")
    if type_name(tested_dataset(cfg).type) == "SketchCocoDataset":
        raise ValueError("the config searches by sketch: use hb sketch-demo")
    require_device(device)
    require_score(score_thr)
    outs = plan(image, out, checkpoint)
    init_default_scope(cfg.default_scope)
    visualizer, written = build_visualizer(cfg, checkpoint), []
    for path, pixels, prediction in predict(cfg, outs, checkpoint, device):
        write(draw(visualizer, pixels, prediction, score_thr), outs[path])
        written.append(outs[path])
    return written

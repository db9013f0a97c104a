"""Draw what a model sees in one image."""

from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement

from ..checkpoints import load_trained, read_checkpoint


@torch.no_grad()
def predict(cfg: Config, image: str | Path, checkpoint: str | Path, device: str) -> BaseDataElement:
    """Build the model of a config, load a checkpoint of it and run it on an image.

    Returns:
        the prediction, of the framework's own type.

    Raises:
        ValueError: where a file is missing, broken or does not fit.
    """
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_trained(model, checkpoint)
    steps = cfg.test_dataloader.dataset.pipeline
    pipeline = Compose([step for step in steps if step["type"] != "LoadAnnotations"])
    batch = pseudo_collate([pipeline(dict(img_path=str(image), img_id=0))])
    return model.to(device).eval().test_step(batch)[0]


def draw(
    cfg: Config,
    image: str | Path,
    prediction: BaseDataElement,
    dataset_meta: dict,
    out: str | Path,
    score_thr: float,
) -> None:
    """Draw a prediction over its image into the picture `out`.

    Detections become boxes, masks and scores, a segmentation a colour map with a legend, a
    classification the name and score of the class.

    Args:
        cfg: config of the model.
        image: file of the image.
        prediction: what :func:`predict` returned.
        dataset_meta: names of the classes and, for maps, their palette, from the checkpoint.
        out: file of the picture.
        score_thr: boxes of a lower score are not drawn.
    """
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    pixels = mmcv.imread(str(image), channel_order="rgb", backend="pillow")
    if cfg.default_scope == "mmseg":
        _draw_map(pixels, prediction.pred_sem_seg.data[0].cpu().numpy(), dataset_meta, out)
        return
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name="demo"))
    visualizer.dataset_meta = dataset_meta
    settings = dict(draw_gt=False, out_file=str(out))
    if cfg.default_scope == "mmpretrain":
        visualizer.visualize_cls(
            pixels, prediction, classes=dataset_meta["classes"], resize=384, **settings
        )
    else:
        visualizer.add_datasample(
            "", pixels, prediction.cpu(), pred_score_thr=score_thr, **settings
        )


def demo(
    cfg: Config,
    image: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    device: str = "cpu",
    score_thr: float = 0.3,
) -> BaseDataElement:
    """Predict on an image and draw the result into the picture `out`; return the prediction."""
    prediction = predict(cfg, image, checkpoint, device)
    dataset_meta = read_checkpoint(checkpoint).get("meta", {}).get("dataset_meta")
    # a published checkpoint does not say its classes
    dataset_meta = dataset_meta or DATASETS.get(cfg.val_dataloader.dataset.type).METAINFO
    if not dataset_meta.get("classes"):
        raise ValueError(
            f"neither {checkpoint} nor its dataset says the classes: use a checkpoint that "
            "tools/train.py saved"
        )
    draw(cfg, image, prediction, dataset_meta, out, score_thr)
    return prediction


def _draw_map(pixels: np.ndarray, labels: np.ndarray, dataset_meta: dict, out: str | Path) -> None:
    """Draw a label map over its image, the classes that occur in a legend, largest first."""
    palette = np.array(dataset_meta["palette"], dtype=np.uint8)
    counts = np.bincount(labels.ravel(), minlength=len(palette))
    present = [i for i in np.argsort(-counts) if counts[i]]
    height, width = labels.shape
    figure = Figure(figsize=(8 * width / max(height, width) + 2.5, 8 * height / max(height, width)))
    axes = figure.add_axes((0, 0, 1 - 2.5 / figure.get_figwidth(), 1))
    axes.imshow((pixels * 0.5 + palette[labels] * 0.5).astype(np.uint8))
    axes.axis("off")
    patches = [
        Patch(
            color=palette[i] / 255,
            label=f"{dataset_meta['classes'][i]} {100 * counts[i] / labels.size:.1f} %",
        )
        for i in present
    ]
    figure.legend(handles=patches, loc="center right", frameon=False, fontsize=9)
    figure.savefig(out, dpi=100)

"""Outputs of exported files as the data samples of the frameworks, to draw and to evaluate."""

from pathlib import Path

import numpy as np
import torch
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from ..checkpoints.files import runs_code
from ..datasets.loading import LoadImageStrict
from ..inference.demo import draw
from ..inference.pictures import load_each, pixels_of, plan, write
from ..training.requirements import require_score
from .runtime import ExportedModel, is_compiled

# framework and its visualizer, by task
VISUALIZER_TYPES = dict(
    classify=("mmpretrain", "UniversalVisualizer"),
    segment=("mmseg", "SegLocalVisualizer"),
    detect=("mmdet", "DetLocalVisualizer"),
)


def to_sample(task: str, outputs: dict[str, np.ndarray]) -> BaseDataElement:
    """Return the data sample of a framework for the outputs of a file on one image.

    Only the framework of the task is imported.

    Args:
        task: 'classify', 'segment' or 'detect'.
        outputs: outputs of :func:`~.runtime.run`.
    """
    if task == "classify":
        from mmpretrain.structures import DataSample

        scores = torch.tensor(outputs["probabilities"])
        return DataSample().set_pred_score(scores).set_pred_label(scores.argmax(-1, keepdim=True))
    if task == "segment":
        from mmseg.structures import SegDataSample

        labels = torch.tensor(outputs["labels"])[None]
        return SegDataSample(pred_sem_seg=PixelData(data=labels))
    from mmdet.structures import DetDataSample

    objects = InstanceData(
        bboxes=torch.tensor(outputs["boxes"]),
        labels=torch.tensor(outputs["labels"]),
        scores=torch.tensor(outputs["scores"]),
    )
    if "masks" in outputs:
        objects.masks = torch.tensor(outputs["masks"])
    return DetDataSample(pred_instances=objects)


def demo_file(
    file: str | Path,
    image: str | Path,
    out: str | Path | None = None,
    *,
    device: str = "cpu",
    score_thr: float = 0.3,
) -> list[Path]:
    """Draw the predictions of an exported file, as :func:`~..inference.demo.demo` does of a model.

    Args:
        file: file of `tools/export.py`.
        image: image file or folder of images.
        out: figure to write, or folder of figures if `image` is a folder.
        device: 'cpu'.
        score_thr: lowest score of the boxes to draw, from 0 to 1.

    Returns:
        paths of the written figures.

    Raises:
        ValueError: if a file is missing, damaged or cannot be written, the image does not fit the
            file, the file predicts nothing that can be drawn, or it was compiled by AOTInductor and
            :func:`~..checkpoints.guard_loads` does not let code run.
    """
    require_score(score_thr)
    if device != "cpu":
        raise ValueError(f"exported files run on the CPU here: leave out --device {device}")
    outs = plan(image, out, file)
    if is_compiled(Path(file)) and not runs_code():
        raise ValueError(
            f"{file} is compiled by AOTInductor, and can do on this machine whatever you can: if "
            "you would run it as a program, add --dangerously-run-code-in-checkpoints"
        )
    model = ExportedModel(file)
    task, classes = model.metadata["task"], model.metadata.get("classes")
    outputs = model.metadata["outputs"]
    if task not in VISUALIZER_TYPES or not classes or (task == "detect" and "boxes" not in outputs):
        raise ValueError(
            f"{file} gives {', '.join(outputs)}, which are not drawn: expected "
            "an exported classifier, segmentor or detector"
        )
    scope, kind = VISUALIZER_TYPES[task]
    init_default_scope(scope)
    visualizer = VISUALIZERS.build(dict(type=kind, vis_backends=None, name="demo"))
    palette = [tuple(colour) for colour in model.metadata["palette"]]
    visualizer.dataset_meta = dict(classes=classes, palette=palette)
    written = []
    for path, item in load_each(LoadImageStrict().transform, outs):
        pixels = pixels_of(item)
        sample = to_sample(task, model(pixels))
        write(draw(visualizer, pixels, sample, score_thr), outs[path])
        written.append(outs[path])
    return written

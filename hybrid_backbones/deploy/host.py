"""What the framework of a model predicts, beside the form of it that is exported.

A form has only the heads and settings that it knows; the framework's own prediction has all.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compare import Bounds, differences
from .eager import run_model
from .runtime import paste_masks

# what other settings change is far more; the order of operations decides at thresholds
ROUNDING = Bounds(numbers=1e-3, labels=1e-2, detections=5e-2)


def require_same_prediction(model: Any, form: Any, images: Tensor) -> None:
    """Check that the exported form of a model predicts what the framework does.

    Args:
        model: classifier, segmentor or detector of its framework.
        form: its form, with the attributes `task` and `names`.
        images: image on which both are run, RGB, uint8, ``(1, 3, H, W)``.

    Raises:
        ValueError: if they differ by more than rounding, or the model cannot take such images.
    """
    # first, as it names a size that the model cannot take
    ours = _run(form, images)
    theirs = _predict(model, form.task, images)
    ours = {name: ours[name].astype(values.dtype) for name, values in theirs.items()}
    for name, (difference, bound) in differences(ours, theirs, ROUNDING).items():
        # this form also rejects NaN
        if not difference <= bound:
            is_share = name == "unpaired"
            what = "the share of unmatched objects" if is_share else f"the error of {name}"
            way_out = "--no-postprocess for the anchors, or " * (form.task == "detect")
            raise ValueError(
                f"{type(model).__name__} is not exported as it is set, as the file would not "
                f"predict what the framework does: {what} is {difference:.1e}, where "
                f"{bound:.0e} is allowed; add {way_out}--backbone-only for the feature maps"
            )


def _run(form: Any, images: Tensor) -> dict[str, np.ndarray]:
    """Return the outputs of a form, with the masks of objects in the image."""
    values = (x.numpy() for x in run_model(form, (images,)))
    outputs = dict(zip(form.names, values, strict=True))
    if "masks" in outputs:
        size, threshold = tuple(images.shape[2:]), form.mask_threshold
        outputs["masks"] = paste_masks(outputs["masks"], outputs["boxes"], size, threshold)
    return outputs


@torch.no_grad()
def _predict(model: Any, task: str, images: Tensor) -> dict[str, np.ndarray]:
    """Return the framework's own prediction under the names of a file's outputs."""
    samples = None
    if task == "detect":
        from mmdet.structures import DetDataSample

        size = tuple(images.shape[2:])
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples = [DetDataSample(metainfo=meta)]
    # the frameworks' images are BGR; those of a model without a preprocessor are floats already
    found = model.test_step(dict(inputs=images.flip(1).float(), data_samples=samples))[0]
    if task == "classify":
        return dict(probabilities=found.pred_score[None].numpy())
    if task == "segment":
        return dict(labels=found.pred_sem_seg.data.long().numpy())
    objects = found.pred_instances
    outputs = dict(boxes=objects.bboxes, labels=objects.labels, scores=objects.scores)
    if "masks" in objects:
        outputs["masks"] = objects.masks
    return {name: values.numpy() for name, values in outputs.items()}

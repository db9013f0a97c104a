"""Accuracy of predictions on the test set of a config, by the framework's own measure."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, init_default_scope

from .predictions import to_sample

# measures that are reported, of all tasks
MEASURES = ("accuracy/top1", "mIoU", "coco/bbox_mAP", "coco/segm_mAP")


def all_have_size(cfg: Config, size: int | Sequence[int]) -> bool:
    """Return whether all images of a config's `test_dataloader` have this height and width."""
    init_default_scope(cfg.default_scope)
    dataset: Any = DATASETS.build(cfg.test_dataloader.dataset)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return all(tuple(item["inputs"].shape[1:]) == sides for item in dataset)


def measure_accuracy(
    cfg: Config, task: str, predict: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, float]:
    """Measure predictions on the images of a config's `test_dataloader` by its `test_evaluator`.

    Args:
        cfg: config of the model, whose test pipeline does not resize.
        task: task of the model, see :func:`~.predictions.to_sample`.
        predict: function from an RGB image (H, W, 3) to the outputs of :func:`~.runtime.run`.

    Returns:
        values of those `MEASURES` that the evaluator has.
    """
    init_default_scope(cfg.default_scope)
    dataset: Any = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for item in dataset:
        # the frameworks' images are BGR, (3, H, W)
        found = to_sample(task, predict(item["inputs"].flip(0).permute(1, 2, 0).numpy()))
        sample = item["data_samples"]
        for name, value in found.all_items():
            sample.set_field(value, name, dtype=type(value))
        evaluator.process([sample], item)
    metrics = evaluator.evaluate(len(dataset))
    return {name: float(metrics[name]) for name in MEASURES if name in metrics}

"""COCO average precision for one sketched category per image."""

from collections.abc import Sequence

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS

CATEGORY = dict(id=1, name="sketched")


@METRICS.register_module()
class SketchCocoMetric(CocoMetric):
    """COCO's AP for one category per image, with all categories merged into one class.

    The ground truth of an image are its annotations of the ``category_id`` in its data sample;
    objects of other categories are background. Small, medium and large are those of COCO, by the
    annotated areas in the original image (the published code scaled areas to the resized image, but
    not the boxes). As in COCO, detections within a crowd of the category are ignored.

    Args:
        ann_file: annotation file in COCO format.
        metric: must be 'bbox'.
        **kwargs: settings of mmdet's CocoMetric.
    """

    def __init__(self, ann_file: str, metric: str = "bbox", **kwargs):
        if metric != "bbox":
            raise ValueError(f"metric must be 'bbox', the only output, got {metric!r}")
        super().__init__(ann_file=ann_file, metric=metric, **kwargs)
        self._annotated = self._coco_api

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collect the predictions and the category of each image."""
        super().process(data_batch, data_samples)
        new = self.results[len(self.results) - len(data_samples) :]
        for (ground_truth, _), sample in zip(new, data_samples, strict=True):
            ground_truth["category_id"] = sample["category_id"]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute AP, AP50, AP75 and AP of small, medium and large objects, under mmdet's names."""
        categories = {gt["img_id"]: gt["category_id"] for gt, _ in results}
        self._coco_api = self._select(categories)
        self.cat_ids, self.img_ids = [CATEGORY["id"]], sorted(categories)
        return super().compute_metrics(results)

    def _select(self, categories: dict[int, int]) -> COCO:
        """Return the annotations of the category given for each image, relabelled as one class."""
        source = self._annotated
        if unknown := sorted(categories.keys() - source.imgs.keys()):
            raise ValueError(
                f"images {unknown[:5]} are not in the annotation file of the metric: set ann_file "
                "of dataset and metric to the same file"
            )
        selected = COCO()
        selected.dataset = dict(
            images=[source.imgs[image] for image in categories],
            categories=[CATEGORY],
            annotations=[
                dict(annotation, category_id=CATEGORY["id"])
                for image, category in categories.items()
                for annotation in source.imgToAnns[image]
                if annotation["category_id"] == category
            ],
        )
        selected.createIndex()
        return selected

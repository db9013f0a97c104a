"""mmdet's metric of COCO, whose result does not depend on the ids of the annotations.

pycocotools notes for each detection the id of the annotation that it matches, as a number, and 0
for none: so it would miss the annotation with id 0, and fail on ids of text.
"""

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import coco_metric


class NumberedCOCO(COCO):
    """pycocotools' index of an annotation file, with ids that it can note for a match.

    Annotations of which one has another id are numbered from 1.
    """

    def createIndex(self) -> None:  # noqa: N802 - pycocotools calls it with the file's contents
        """Number the annotations if necessary, and index the contents."""
        annotations = self.dataset.get("annotations", [])
        if any(one["id"] == 0 or isinstance(one["id"], str) for one in annotations):
            for number, one in enumerate(annotations, 1):
                one["id"] = number
        super().createIndex()


# a subclass of the metric would not do: all configs, and those of the hosts, name mmdet's
coco_metric.COCO = NumberedCOCO

"""mmdet's metric of COCO, whose result does not depend on the ids of the annotations.

pycocotools notes for each detection the id of the annotation that it matches, as a number, and 0
for none: so it would miss the annotation with id 0, and fail on ids of text.
"""

from functools import wraps

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric

_init_by_mmdet = CocoMetric.__init__


@wraps(_init_by_mmdet)
def init_with_numbers(self: CocoMetric, *args, **kwargs) -> None:
    """Initialise as mmdet does, and number the annotations."""
    _init_by_mmdet(self, *args, **kwargs)
    if self._coco_api is not None:
        number_annotations(self._coco_api)


def number_annotations(annotated: COCO) -> None:
    """Number annotations from 1, in place, if an id is one that pycocotools cannot note."""
    annotations = annotated.dataset.get("annotations", [])
    if any(one["id"] == 0 or isinstance(one["id"], str) for one in annotations):
        for number, one in enumerate(annotations, 1):
            one["id"] = number
        annotated.createIndex()


# a subclass would not do: all configs, and those of the hosts, name mmdet's
CocoMetric.__init__ = init_with_numbers

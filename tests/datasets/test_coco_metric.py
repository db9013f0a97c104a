"""Laws of COCO's metric: its result does not depend on how the annotations are numbered."""

import json

import pytest
import torch
from mmengine.registry import METRICS, DefaultScope

import hybrid_backbones.training

pytestmark = pytest.mark.upstream
BOXES = [[10, 10, 20, 20], [50, 10, 30, 20], [10, 60, 20, 30]]
SIZE = dict(height=100, width=100)
# ids of three annotations
IDS = {
    "from one": [1, 2, 3],
    "from zero": [0, 1, 2],
    "text": ["a", "b", "c"],
    "numbers as text": ["0", "1", "2"],
    "some text": [7, "b", 0],
}


def measure(path, ids):
    """Return the average precision of exact boxes of two of the three objects."""
    annotations = [
        dict(id=i, image_id=1, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0)
        for i, box in zip(ids, BOXES, strict=True)
    ]
    images, categories = [dict(id=1, file_name="1.png", **SIZE)], [dict(id=1, name="cat")]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    with DefaultScope.overwrite_default_scope("mmdet"):
        metric = METRICS.build(dict(type="CocoMetric", ann_file=str(path), metric="bbox"))
    metric.dataset_meta = dict(classes=("cat",))
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in BOXES[:2]]).float()
    found = dict(bboxes=corners, scores=torch.ones(2), labels=torch.zeros(2, dtype=torch.long))
    metric.process({}, [dict(img_id=1, ori_shape=(100, 100), pred_instances=found)])
    return metric.evaluate(1)["coco/bbox_mAP"]


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_the_result_does_not_depend_on_the_ids_of_the_annotations(tmp_path, ids):
    assert hybrid_backbones.training
    # as pycocotools interpolates at 101 recalls
    assert measure(tmp_path / "val.json", ids) == pytest.approx(67 / 101, abs=1e-3)


def test_ids_that_pycocotools_notes_stay(tmp_path):
    measure(tmp_path / "val.json", [4, 9, 7])
    with DefaultScope.overwrite_default_scope("mmdet"):
        metric = METRICS.build(dict(type="CocoMetric", ann_file=str(tmp_path / "val.json")))
    assert list(metric._coco_api.anns) == [4, 9, 7]

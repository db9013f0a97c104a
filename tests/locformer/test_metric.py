"""Laws of the metric: which objects are asked for, and that the numbers are COCO's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hybrid_backbones.locformer.metric import SketchCocoMetric

CAT, DOG = 7, 3
# image, category, x, y, width, height: of each size and in each image an object of both categories
OBJECTS = [
    (1, CAT, 10, 10, 20, 20),
    (1, CAT, 100, 100, 60, 50),
    (1, DOG, 200, 10, 150, 150),
    (2, DOG, 5, 5, 200, 120),
    (2, DOG, 300, 300, 25, 30),
    (2, CAT, 220, 10, 70, 70),
    (3, CAT, 0, 0, 140, 130),
    (3, CAT, 200, 200, 90, 80),
    (3, DOG, 300, 100, 15, 15),
]
ASKED = {1: CAT, 2: DOG, 3: CAT}
SIZES = ("", "_50", "_75", "_s", "_m", "_l")


def annotate(path, objects=OBJECTS, **more):
    annotations = [
        dict(id=i, image_id=image, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
        for i, (image, category, *box) in enumerate(objects, start=1)
    ]
    for annotation in annotations:
        annotation.update(more.get(f"of_{annotation['id']}", {}))
    images = [dict(id=i, width=400, height=400, file_name=f"{i}.jpg") for i in (1, 2, 3)]
    categories = [dict(id=DOG, name="dog"), dict(id=CAT, name="cat")]
    contents = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(contents))
    return str(path)


def sample(image, boxes, scores=None, asked=None):
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).reshape(-1, 4).float()
    predictions = dict(
        bboxes=corners,
        scores=torch.tensor(scores) if scores is not None else torch.ones(len(boxes)),
        labels=torch.zeros(len(boxes), dtype=torch.long),
    )
    return dict(
        img_id=image,
        ori_shape=(400, 400),
        category_id=(asked or ASKED)[image],
        pred_instances=predictions,
    )


def perfect(objects=OBJECTS, asked=ASKED):
    return [
        sample(image, [box for i, c, *box in objects if (i, c) == (image, category)], asked=asked)
        for image, category in asked.items()
    ]


def measure(path, samples):
    metric = SketchCocoMetric(ann_file=path)
    metric.dataset_meta = dict(classes=("sketched",))
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


@pytest.fixture
def path(tmp_path):
    return annotate(tmp_path / "instances.json")


def test_perfect_boxes_of_what_is_asked_for_give_one(path):
    result = measure(path, perfect())
    assert result == {f"coco/bbox_mAP{size}": 1.0 for size in SIZES}


def test_perfect_boxes_of_the_other_category_give_zero(path):
    other = {image: DOG + CAT - category for image, category in ASKED.items()}
    samples = perfect(asked=other)
    for one in samples:
        one["category_id"] = ASKED[one["img_id"]]
    result = measure(path, samples)
    assert set(result.values()) == {0.0}


def test_the_objects_of_other_categories_are_background(path):
    asked = perfect()
    plain = measure(path, asked)["coco/bbox_mAP_50"]
    # with a higher score than all others, a dog in the image of cats is a false alarm
    dog = torch.tensor([[200.0, 10.0, 350.0, 160.0]])
    found = asked[0]["pred_instances"]
    found["bboxes"] = torch.cat([found["bboxes"], dog])
    found["scores"] = torch.tensor([0.5, 0.5, 2.0])
    found["labels"] = torch.zeros(3, dtype=torch.long)
    assert measure(path, asked)["coco/bbox_mAP_50"] < plain


def test_the_numbers_are_those_of_pycocotools(path, tmp_path):
    rng = np.random.default_rng(0)
    samples, boxes = perfect(), []
    for one in samples:
        found = one["pred_instances"]
        shaken = found["bboxes"] + torch.from_numpy(rng.normal(0, 4, found["bboxes"].shape))
        noise = torch.from_numpy(rng.uniform(0, 150, (5, 2)))
        noise = torch.cat([noise, noise + torch.from_numpy(rng.uniform(10, 150, (5, 2)))], dim=1)
        found["bboxes"] = torch.cat([shaken, noise])
        found["scores"] = torch.from_numpy(rng.uniform(size=len(found["bboxes"])))
        found["labels"] = torch.zeros(len(found["bboxes"]), dtype=torch.long)
        for (x1, y1, x2, y2), score in zip(
            found["bboxes"].tolist(), found["scores"].tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            boxes.append(dict(image_id=one["img_id"], category_id=1, bbox=box, score=score))
    # the oracle: a file that has one category per image, under one name, from the beginning
    objects = [(i, 1, *box) for i, c, *box in OBJECTS if ASKED[i] == c]
    contents = json.loads(Path(annotate(tmp_path / "one.json", objects)).read_text())
    contents["categories"] = [dict(id=1, name="any")]
    truth = COCO()
    truth.dataset = contents
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(boxes), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    result = measure(path, samples)
    assert 0 < result["coco/bbox_mAP"] < 1
    for size, expected in zip(SIZES, evaluation.stats[: len(SIZES)], strict=True):
        assert result[f"coco/bbox_mAP{size}"] == pytest.approx(expected, abs=5.1e-4)


def test_small_medium_and_large_go_by_the_annotated_area(tmp_path):
    # a box of 60 × 50 around something thin
    path = annotate(tmp_path / "instances.json", of_2=dict(area=500))
    samples = perfect()
    found = samples[0]["pred_instances"]
    for key in ("bboxes", "scores", "labels"):
        found[key] = found[key][:1]
    plain = measure(annotate(tmp_path / "plain.json"), samples)
    thin = measure(path, samples)
    assert thin["coco/bbox_mAP_s"] < plain["coco/bbox_mAP_s"]
    assert thin["coco/bbox_mAP_m"] > plain["coco/bbox_mAP_m"]


def test_boxes_within_a_crowd_of_the_category_count_neither_way(tmp_path):
    crowd = [(1, CAT, 300, 300, 90, 90)]
    path = annotate(
        tmp_path / "instances.json", OBJECTS + crowd, of_10=dict(iscrowd=1, segmentation={})
    )
    samples = perfect()
    assert measure(path, samples)["coco/bbox_mAP"] == 1.0
    found = samples[0]["pred_instances"]
    found["bboxes"] = torch.cat([torch.tensor([[310.0, 310.0, 340.0, 350.0]]), found["bboxes"]])
    found["scores"] = torch.ones(3)
    found["labels"] = torch.zeros(3, dtype=torch.long)
    assert measure(path, samples)["coco/bbox_mAP"] == 1.0


def test_one_category_for_all_is_cocos_own_metric(path):
    asked = dict.fromkeys(ASKED, CAT)
    samples = perfect(asked=asked)
    samples[0]["pred_instances"]["bboxes"] += 3
    theirs = CocoMetric(ann_file=path, metric="bbox")
    theirs.dataset_meta = dict(classes=("cat",))
    theirs.process({}, samples)
    assert measure(path, samples) == theirs.evaluate(3)


def test_a_part_of_the_images_is_measured_alone(path):
    samples = perfect()
    samples[2]["pred_instances"]["bboxes"] += 500
    assert measure(path, samples)["coco/bbox_mAP"] < 1
    assert measure(path, samples[:2])["coco/bbox_mAP"] == 1.0


def test_each_evaluation_is_for_itself(path):
    metric = SketchCocoMetric(ann_file=path)
    metric.dataset_meta = dict(classes=("sketched",))
    results = []
    for asked in (ASKED, dict.fromkeys(ASKED, DOG), ASKED):
        metric.process({}, perfect(asked=asked))
        results.append(metric.evaluate(3)["coco/bbox_mAP"])
    assert results == [1.0, 1.0, 1.0]


def test_an_image_of_another_file_is_named(path):
    strange = sample(9, [], asked={9: CAT})
    with pytest.raises(ValueError, match=r"\[9\].*ann_file"):
        measure(path, [*perfect(), strange])


def test_masks_are_refused(path):
    with pytest.raises(ValueError, match="'segm'"):
        SketchCocoMetric(ann_file=path, metric="segm")

"""Laws of COCO's annotations: what is wrong is counted once, or refused with file and id."""

import json
import re
from copy import deepcopy

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import DATASETS
from pycocotools import mask as coco_masks

from hybrid_backbones.datasets.coco import CheckedCOCO
from hybrid_backbones.datasets.coco_checks import BOX_CHECKS, MASK_CHECKS
from hybrid_backbones.datasets.coco_checks import REFUSED as REFUSAL

pytestmark = pytest.mark.upstream
HEIGHT, WIDTH = 20, 30
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]
GOOD = dict(category_id=1, bbox=[2, 3, 10, 10], area=100, iscrowd=0, segmentation=[SQUARE])
WITH_MASKS = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]
# JSON's numbers have no limit
HUGE = 10**400
NAN, INFINITY = float("nan"), float("inf")


def contents(*changes, **image):
    """Return a file with a good annotation, id 100, and one of each change, ids from 101."""
    annotations = [dict(deepcopy(GOOD), id=100 + i) for i in range(1 + len(changes))]
    for annotation, change in zip(annotations[1:], changes, strict=True):
        annotation.update(change)
    return dict(
        images=[dict(id=5, file_name="5.png", height=HEIGHT, width=WIDTH) | image],
        annotations=[dict(one, image_id=5) for one in annotations],
        categories=[dict(id=1, name="cat"), dict(id=2, name="dog")],
    )


def load(tmp_path, content, kind="CheckedCocoDataset", pipeline=(), classes=("cat",), **settings):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return DATASETS.build(
        dict(
            type=kind,
            ann_file=str(path),
            data_prefix=dict(img=""),
            metainfo=dict(classes=classes),
            pipeline=list(pipeline),
            **settings,
        )
    )


def boxes(dataset):
    return [
        one["bbox"] for i in range(len(dataset)) for one in dataset.get_data_info(i)["instances"]
    ]


def compressed(runs):
    return coco_masks.frPyObjects(dict(size=[HEIGHT, WIDTH], counts=runs), HEIGHT, WIDTH)[
        "counts"
    ].decode()


FULL = [100, 50, HEIGHT * WIDTH - 150]
# name: what is wrong with an annotation, what the report says, and whether it is still used
FAULTS = {
    "nan": (dict(bbox=[NAN, 1, 5, 5]), "not finite.*left out", False),
    "infinite": (dict(bbox=[1, 1, INFINITY, 5]), "not finite.*left out", False),
    "negative": (dict(bbox=[9, 9, -5, 5]), "negative size.*left out", False),
    "empty": (dict(bbox=[9, 9, 0, 5]), "under a pixel.*left out", False),
    "no area": (dict(area=0), "area that is not positive.*left out", False),
    "left of it": (dict(bbox=[-9, 1, 9, 5]), "outside the image.*left out", False),
    "below it": (dict(bbox=[1, HEIGHT, 5, 5]), "outside the image.*left out", False),
    "over the border": (dict(bbox=[-5, 1, 50, 5]), "over the border.*clipped", True),
    "flat polygon": (dict(segmentation=SQUARE), "neither polygons nor run.*left out", False),
    "text": (dict(segmentation="square"), "neither polygons nor run.*left out", False),
    "no counts": (dict(segmentation=dict(size=[9, 9])), "neither polygons nor run", False),
    "polygon of nan": (dict(segmentation=[[*SQUARE, NAN, 1]]), "that are no numbers", False),
    "polygon of text": (dict(segmentation=[["1"] * 6]), "that are no numbers", False),
    "far polygon": (dict(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), "near the image", False),
    "enormous polygon": (dict(segmentation=[[HUGE, *SQUARE[1:]]]), "near the image", False),
    "enormous run": (
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[HUGE])),
        "do not add up",
        False,
    ),
    "short polygon": (dict(segmentation=[SQUARE, [1, 1, 5, 5]]), "too few or an odd.*left", True),
    "odd polygon": (dict(segmentation=[SQUARE, SQUARE[:7]]), "too few or an odd.*left", True),
    "other size": (dict(segmentation=dict(size=[9, 9], counts=[81])), "another image size", False),
    "too few runs": (
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[9])),
        "do not add up",
        False,
    ),
    "negative run": (
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[-9, HEIGHT * WIDTH + 9])),
        "do not add up",
        False,
    ),
    "garbled runs": (
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts="h&}{ llo")),
        "do not add up",
        False,
    ),
    "compressed too few": (
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=compressed(FULL[:2]))),
        "do not add up",
        False,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_with_its_count_and_first_example(tmp_path, logged, name):
    change, says, used = FAULTS[name]
    dataset = load(tmp_path, contents(change, change), pipeline=WITH_MASKS)
    (line,) = logged
    assert "\n" not in line
    assert "instances.json: 2 annotations with" in line
    assert "the first has id 101, in 5.png" in line
    assert len(line) < 400

    assert re.search(says, line), line
    assert len(boxes(dataset)) == 1 + 2 * used


def test_several_faults_are_one_line(tmp_path, logged):
    changes = [change for change, *_ in FAULTS.values()]
    load(tmp_path, contents(*changes), pipeline=WITH_MASKS)
    (line,) = logged
    (refusal,) = (check for check in BOX_CHECKS + MASK_CHECKS if check.remedy == REFUSAL)
    for check in BOX_CHECKS + MASK_CHECKS:
        assert line.count(check.fault) == (check is not refusal)


def test_good_annotations_are_not_reported(tmp_path, logged):
    whole = [
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=FULL), iscrowd=1),
        dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=compressed([*FULL[:2], 7, 3, 440]))),
        dict(bbox=[-0.5, 0, WIDTH + 1, HEIGHT + 0.5]),
        dict(category_id=2, bbox=[NAN] * 4, segmentation=None),
        dict(ignore=True, bbox=[-9, -9, 1, 1], segmentation=None),
    ]
    dataset = load(tmp_path, contents(*whole), pipeline=WITH_MASKS)
    assert logged == []
    assert len(boxes(dataset)) == 4


def test_masks_that_are_not_loaded_are_not_checked(tmp_path, logged):
    dataset = load(tmp_path, contents(dict(segmentation="square"), dict(segmentation=None)))
    assert logged == []
    assert len(boxes(dataset)) == 3


def test_finite_boxes_are_used_as_mmdet_uses_them(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.integers(-2 * HEIGHT, 2 * HEIGHT, (400, 4)) / 2
    changes = [dict(bbox=box.tolist(), area=float(box[2] * box[3])) for box in values]
    ours, hosts = (
        load(tmp_path, contents(*changes), kind)
        for kind in ("CheckedCocoDataset", "mmdet.CocoDataset")
    )
    assert issubclass(type(ours), CocoDataset)
    assert boxes(ours) == boxes(hosts)
    assert 10 < len(boxes(ours)) < 390


def drop(content, section, key):
    del content[section][-1][key]


def replace(content, section, **entries):
    content[section][-1].update(entries)


def repeat(content, section, **entries):
    content[section].append(dict(content[section][-1], **entries))


# name: what is done to a good file, and what the one line says besides the file
REFUSED = {
    "no segmentation": (
        lambda c: drop(c, "annotations", "segmentation"),
        "no segm.* id 101.*5.png",
    ),
    "empty segmentation": (
        lambda c: replace(c, "annotations", segmentation=[]),
        "no segm.* id 101",
    ),
    "no box": (lambda c: drop(c, "annotations", "bbox"), "annotation 101 has no bbox"),
    "no area": (lambda c: drop(c, "annotations", "area"), "annotation 101 has no area"),
    "no id": (lambda c: drop(c, "annotations", "id"), "annotation number 2 has no id"),
    "box of text": (lambda c: replace(c, "annotations", bbox=["1"] * 4), "annotation 101 has bbox"),
    "box of three": (
        lambda c: replace(c, "annotations", bbox=[1, 2, 3]),
        "annotation 101 has bbox",
    ),
    "enormous box": (lambda c: replace(c, "annotations", bbox=[HUGE] * 4), "annotation 101 has bb"),
    "enormous area": (lambda c: replace(c, "annotations", area=-HUGE), "annotation 101.*area -100"),
    "enormous image": (lambda c: replace(c, "images", width=HUGE), "image 5 has width and height"),
    "unknown ids": (
        lambda c: (
            [one.update(image_id=x) for one, x in zip(c["annotations"], "ab", strict=True)]
            and repeat(c, "annotations", id=102, image_id=2)
        ),
        r"unknown image_id \[2, 'a', 'b'\]",
    ),
    "annotation twice": (lambda c: repeat(c, "annotations"), "two entries.*annotation 101"),
    "image twice": (lambda c: repeat(c, "images", file_name="6.png"), "two entries.*image 5"),
    "image without name": (lambda c: drop(c, "images", "file_name"), "image 5 has no file_name"),
    "image without size": (lambda c: drop(c, "images", "height"), "image 5 has no height"),
    "image of no size": (lambda c: replace(c, "images", height=0), "image 5 has width and height"),
    "image is a name": (lambda c: c["images"].append("6.png"), "image number 2 is no object"),
    "images are none": (lambda c: c.update(images=None), "no list of images"),
    "nothing to train on": (
        lambda c: [one.update(bbox=[1, 1, -1, -1]) for one in c["annotations"]],
        "no image with an object.*of 1 images",
    ),
    "crowds alone": (
        lambda c: [one.update(iscrowd=1) for one in c["annotations"]],
        "no image with an object",
    ),
    "no images": (
        lambda c: c.update(images=[], annotations=[]),
        "no image with an object.*of 0 images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused(tmp_path, name):
    damage, says = REFUSED[name]
    content = contents(dict())
    damage(content)
    with pytest.raises(ValueError, match=rf"instances\.json.*{says}") as refusal:
        load(tmp_path, content, pipeline=WITH_MASKS)
    assert "\n" not in str(refusal.value)


def test_an_image_listed_twice_is_used_once(tmp_path, logged):
    content = contents()
    repeat(content, "images")
    assert len(load(tmp_path, content)) == 1
    assert "1 images listed twice: used once" in logged[0]


def test_images_too_small_for_the_filter_are_named_as_such(tmp_path):
    with pytest.raises(ValueError, match=r"of 1 images filter_cfg=.*min_size.* leaves 0"):
        load(tmp_path, contents(), filter_cfg=dict(min_size=32))


@pytest.mark.parametrize("name", [n for n, fault in FAULTS.items() if "segmentation" in fault[0]])
def test_masks_that_the_metric_would_fail_on_are_refused_before_it(tmp_path, name):
    with pytest.raises(ValueError, match=r"instances\.json.* id 101"):
        load(tmp_path, contents(FAULTS[name][0]), pipeline=WITH_MASKS, test_mode=True)


def test_an_evaluation_says_that_its_metric_counts_all_boxes(tmp_path, logged):
    load(tmp_path, contents(FAULTS["negative"][0]), test_mode=True)
    assert "negative size" in logged[0]
    assert "measured as they are" in logged[0]


def test_an_evaluation_needs_what_the_metric_reads(tmp_path):
    content = contents(dict())
    drop(content, "annotations", "iscrowd")
    load(tmp_path, content)
    with pytest.raises(ValueError, match="annotation 101 has no iscrowd"):
        load(tmp_path, content, test_mode=True)


def test_images_without_objects_can_be_evaluated(tmp_path):
    assert len(load(tmp_path, contents() | dict(annotations=[]), test_mode=True)) == 1


def test_images_without_annotations_are_for_tests_alone(tmp_path):
    content = contents()
    del content["annotations"]
    assert len(load(tmp_path, content, test_mode=True)) == 1
    with pytest.raises(ValueError, match=r"instances\.json.* no list of annotations"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    ["", "{", "\udc80", "[" * 10**5, '{"images": %s}' % ("9" * 5000)],
    ids=["empty", "short", "no text", "nested", "long number"],
)
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=r"instances\.json is malformed: it is not JSON \("
    ) as refusal:
        CheckedCOCO(str(path), ["cat"], allow_others=True)
    assert "\n" not in str(refusal.value)

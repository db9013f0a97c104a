"""Laws of the inspection of annotation files: each planted fault is found, no other."""

import json

import pytest
from inspection_cases import HEIGHT, WIDTH, cut, noise, rotate
from PIL import Image

from hybrid_backbones.datasets import coco_checks
from hybrid_backbones.datasets.coco import CheckedCOCO
from hybrid_backbones.datasets.inspection import coco, images
from hybrid_backbones.datasets.inspection.coco import inspect_coco
from hybrid_backbones.datasets.inspection.findings import Problems

pytestmark = pytest.mark.upstream
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]
BOX = dict(category_id=1, bbox=[2, 3, 10, 10], area=100, iscrowd=0, segmentation=[SQUARE])


@pytest.fixture
def content(tmp_path):
    """A good set of three images with one object each; the faults go into the second."""
    for i in (1, 2, 3):
        Image.fromarray(noise()).save(tmp_path / f"{i}.png")
    sizes = dict(height=HEIGHT, width=WIDTH)
    return dict(
        images=[dict(id=i, file_name=f"{i}.png", **sizes) for i in (1, 2, 3)],
        annotations=[dict(BOX, id=10 * i, image_id=i) for i in (1, 2, 3)],
        categories=[dict(id=1, name="cat"), dict(id=2, name="dog")],
    )


def inspect(folder, content, classes=("cat", "dog"), **settings):
    (folder / "all.json").write_text(content if isinstance(content, str) else json.dumps(content))
    settings = dict(with_masks=True, quiet=True) | settings
    return inspect_coco(folder / "all.json", folder, classes, "set", **settings)


def change(section, **entries):
    return lambda content: content[section][1].update(entries)


def drop(section, key):
    return lambda content: content[section][1].pop(key)


# name of a file: kind and example of what is wrong with it
NAMES = {
    "": (images.UNOPENED, "{folder} (Is a directory)"),
    "a\0b.png": (images.UNOPENED, r"{folder}/a\x00b.png (embedded null byte)"),
    "a\nb.png": (images.MISSING, r"{folder}/a\nb.png"),
}


@pytest.mark.parametrize("name", NAMES, ids=["empty", "null", "line break"])
def test_a_name_that_no_image_has_is_found_like_any_other_fault(tmp_path, content, name):
    change("images", file_name=name)(content)
    (tmp_path / "3.png").unlink()
    kind, example = NAMES[name]
    problems = inspect(tmp_path, content).problems
    examples = [x for others in problems.examples.values() for x in others]
    assert sorted(examples) == sorted([example.format(folder=tmp_path), str(tmp_path / "3.png")])
    assert example.format(folder=tmp_path) in problems.examples[kind]


# name: what is done to the annotation file, a part of the kind, and of the example
ENTRIES = {
    "unknown category": (
        change("annotations", category_id=9),
        coco.UNKNOWN_CATEGORY,
        "annotation 20 (category_id 9)",
    ),
    "unknown image": (
        change("annotations", image_id=9),
        coco.UNKNOWN_IMAGE,
        "annotation 20 (image_id 9)",
    ),
    "category that the config lacks": (
        lambda content: content["categories"].append(dict(id=3, name="cow")),
        coco.OTHER_CATEGORY,
        "cow",
    ),
    "category that the file lacks": (
        lambda content: content["categories"].pop(),
        coco.NO_CATEGORY,
        "dog",
    ),
    "box outside": (
        change("annotations", bbox=[WIDTH, 1, 5, 5]),
        "box outside the image",
        "annotation 20 in 2.png (bbox [30, 1, 5, 5])",
    ),
    "box over the border": (change("annotations", bbox=[-9, 1, 19, 5]), "over the border", "20"),
    "empty box": (change("annotations", bbox=[5, 5, 0, 5]), "under a pixel", "20 in 2.png"),
    "negative box": (change("annotations", bbox=[9, 9, -5, 5]), "negative size", "20 in 2.png"),
    "area": (change("annotations", area=0), "area that is not positive", "area 0"),
    "line as mask": (
        change("annotations", segmentation=[[2, 3, 12, 3, 7, 3]]),
        "mask without area",
        "20 in 2.png",
    ),
    "runs of nothing": (
        change("annotations", segmentation=dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * WIDTH])),
        "mask without area",
        "20 in 2.png",
    ),
    "short polygon": (
        change("annotations", segmentation=[SQUARE, [1, 1, 5, 5]]),
        "too few or an odd number",
        "20 in 2.png",
    ),
    "no mask": (change("annotations", segmentation=[]), "no segmentation", "20 in 2.png"),
    "no box": (drop("annotations", "bbox"), "annotation entries malformed", "20 (bbox None)"),
    "box of text": (change("annotations", bbox=["1"] * 4), "annotation entries malformed", "bbox"),
    "no size": (drop("images", "width"), "image entries malformed", "image 2 (width None)"),
    "size of zero": (change("images", height=0), "image entries malformed", "image 2"),
    "category without name": (drop("categories", "name"), "category entries malformed", "2 (name"),
    "id twice": (change("annotations", id=10), "annotation entries with the id of another", "10"),
    "no annotations": (lambda content: content.pop("annotations"), coco.NO_SECTION, "annotations"),
    "no images": (lambda content: content.update(images=[], annotations=[]), coco.NO_IMAGE, "json"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_faulty_entry_is_found_and_named(tmp_path, content, name):
    damage, kind, example = ENTRIES[name]
    damage(content)
    classes = ("cat",) if name == "category without name" else ("cat", "dog")
    found = inspect(tmp_path, content, classes).problems.examples
    (only,) = found
    assert kind in only
    assert len(found[only]) == 1
    assert example in found[only][0]


def test_a_good_set_has_no_problems_and_is_counted(tmp_path, content):
    content["annotations"].append(dict(BOX, id=40, image_id=1, bbox=[2, 3, 7, 5]))
    content["annotations"].append(dict(BOX, id=50, image_id=1, category_id=2, iscrowd=1))
    findings = inspect(tmp_path, content)
    assert findings.lines() == ["3 images, 4 objects, 2 classes; none of dog"]
    assert findings.num_images == dict(cat=3)
    assert findings.boxes[-1].tolist() == [7, 5]
    assert len(findings.images) == 3


def test_all_problems_are_reported_at_once(tmp_path, content):
    (tmp_path / "1.png").unlink()
    rotate(tmp_path / "2.png")
    cut(tmp_path / "3.png")
    change("annotations", bbox=[WIDTH, 1, 5, 5])(content)
    drop("images", "width")(content)
    lines = inspect(tmp_path, content).lines()
    # of the malformed image nothing else is known
    assert len(lines) == 4
    assert all("\n" not in line for line in lines)


def test_masks_are_inspected_where_they_are_used_alone(tmp_path, content):
    change("annotations", segmentation=[])(content)
    assert not inspect(tmp_path, content, with_masks=False).problems


def test_other_categories_are_fine_where_classes_are_chosen(tmp_path, content):
    assert not inspect(tmp_path, content, ("cat",), allow_others=True).problems
    assert inspect(tmp_path, content, ("cat",)).problems.examples == {coco.OTHER_CATEGORY: ["dog"]}


def test_a_metric_needs_to_know_the_crowds(tmp_path, content):
    drop("annotations", "iscrowd")(content)
    assert not inspect(tmp_path, content).problems
    (kind,) = inspect(tmp_path, content, evaluates=True).problems.examples
    assert kind == "annotation entries malformed"


# what is wrong with an annotation, and what a training and an evaluation do with it
CONSEQUENCES = {
    "short polygon": (dict(segmentation=[[1, 2, 3, 4]]), coco_checks.DROPPED, coco_checks.REFUSED),
    "unknown mask": (dict(segmentation=7), coco_checks.LEFT_OUT, coco_checks.REFUSED),
    "line as mask": (
        dict(segmentation=[[2, 3, 12, 3, 7, 3]]),
        coco_checks.EMPTY,
        coco_checks.MEASURED,
    ),
    "box outside": (dict(bbox=[-50, 0, 5, 5]), coco_checks.LEFT_OUT, coco_checks.MEASURED),
}


@pytest.mark.parametrize("evaluates", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CONSEQUENCES)
def test_a_fault_is_counted_once_with_what_the_set_does(tmp_path, content, name, evaluates):
    fault, *consequences = CONSEQUENCES[name]
    change("annotations", **fault)(content)
    problems = inspect(tmp_path, content, evaluates=evaluates).problems
    assert len(problems) == 1
    (kind,) = problems.examples
    assert kind.endswith(f", {consequences[evaluates]}")
    if consequences[evaluates] == coco_checks.REFUSED:
        with pytest.raises(ValueError, match="correct or remove them"):
            CheckedCOCO(
                str(tmp_path / "all.json"), ["cat", "dog"], False, with_masks=True, evaluates=True
            )


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "[]", "7"])
def test_a_file_of_something_else_is_a_problem(tmp_path, text):
    assert inspect(tmp_path, text).problems


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_in_an_encoding_that_a_training_does_not_read_is_a_problem(
    tmp_path, content, encoding
):
    path = tmp_path / "all.json"
    path.write_text(json.dumps(content), encoding)
    found = inspect_coco(path, tmp_path, ("cat", "dog"), "set", quiet=True).problems.examples
    assert found.keys() == {coco.NO_FILE}
    with pytest.raises(ValueError, match=r"all\.json"):
        CheckedCOCO(str(path), ["cat", "dog"], False)


def test_a_line_has_a_count_and_the_first_examples():
    problems = Problems()
    problems.add("images missing", *"abcd")
    problems.add("label maps missing")
    problems.add("images rotated", "e")
    assert problems.lines() == ["images missing: 4, such as a; b; c", "images rotated: 1, e"]
    assert len(problems) == 5

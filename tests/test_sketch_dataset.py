"""Laws of images with sketches: which category, boxes and sketch, and how they are packed."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image

import hybrid_backbones.engine
from hybrid_backbones.datasets.sketches import (
    SHARED_CATEGORIES,
    PackSketchInputs,
    RenderSketch,
    RoundedResize,
    SketchCocoDataset,
    split_categories,
)
from hybrid_backbones.engine.reproducible import Draw, SeededSampler

SHARED = Path(__file__).resolve().parents[2] / "shared/realdata"
# in another order than the file's categories; the first and the last are unseen
NAMES = ("zebra", "apple", "car", "dog", "bus")
IDS = dict(car=3, bus=6, dog=18, zebra=24, apple=53, person=1)
# categories of the objects of each image
SCENES = {
    11: ["car", "car", "dog", "person"],
    12: ["zebra"],
    13: ["person"],
    14: ["apple", "bus", "dog"],
    15: ["zebra", "bus"],
    16: [],
    17: ["car", "zebra"],
}
NUM_DRAWINGS = 30
# 64 × 48 pixels
SIDES = (64, 48)


def write_set(root, scenes=SCENES, crowds=()):
    """Write images, annotations and drawings; a drawing tells its category and number."""
    (root / "images").mkdir(parents=True)
    (root / "ndjson").mkdir()
    annotations = []
    for image, names in scenes.items():
        Image.new("RGB", SIDES).save(root / f"images/{image}.png")
        for n, name in enumerate(names):
            one = dict(id=len(annotations) + 1, image_id=image, category_id=IDS[name])
            crowd = (image, name) in crowds
            box = [n, 5 * n, 10 + n, 10]
            annotations.append(dict(one, bbox=box, area=box[2] * 10, iscrowd=int(crowd)))
    width, height = SIDES
    contents = dict(
        images=[dict(id=i, file_name=f"{i}.png", width=width, height=height) for i in scenes],
        annotations=annotations,
        categories=[dict(id=i, name=name) for name, i in sorted(IDS.items(), key=lambda x: x[1])],
    )
    (root / "instances.json").write_text(json.dumps(contents))
    for label, name in enumerate(NAMES):
        lines = [
            json.dumps(dict(word=name, recognized=True, drawing=[[[label, n], [0, 99]]]))
            for n in range(NUM_DRAWINGS)
        ]
        (root / f"ndjson/{name}.ndjson").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data") / "set")


def build(root, **settings):
    settings = (
        dict(
            data_root=str(root),
            ann_file="instances.json",
            data_prefix=dict(img="images/"),
            sketch_root=str(root),
            metainfo=dict(classes=NAMES),
            pipeline=[],
        )
        | settings
    )
    return SketchCocoDataset(**settings)


def items(dataset, *, epochs=1):
    """Return what a training sees."""
    sampler = SeededSampler(dataset, seed=0)
    out = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        out += [dataset[i] for i in sampler]
    return out


def drawn(item):
    """Return the category that each sketch of an item shows, and its number."""
    return [(NAMES[int(s[0][0, 0])], int(s[0][0, 1])) for s in item["drawings"]]


def test_the_published_list_has_its_14_unseen_categories():
    assert len(SHARED_CATEGORIES) == len(set(SHARED_CATEGORIES)) == 56
    assert split_categories(SHARED_CATEGORIES, "unseen") == (
        *("elephant", "bus", "bed", "sandwich", "umbrella", "toothbrush", "toaster", "donut"),
        *("oven", "fire hydrant", "apple", "car", "backpack", "skateboard"),
    )
    seen = split_categories(SHARED_CATEGORIES, "seen")
    assert len(seen) == 42
    assert not set(seen) & set(split_categories(SHARED_CATEGORIES, "unseen"))
    assert split_categories(SHARED_CATEGORIES, "all") == SHARED_CATEGORIES


@pytest.mark.parametrize("test_mode", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("split", "images"),
    [("all", {11, 12, 14, 15, 17}), ("seen", {11, 14, 17}), ("unseen", {12, 14, 15, 17})],
)
def test_images_show_a_category_of_the_split(root, split, images, test_mode):
    dataset = build(root, split=split, test_mode=test_mode)
    assert {item["img_id"] for item in items(dataset)} == images
    active = split_categories(NAMES, split)
    assert dataset.categories == active
    for item in items(dataset, epochs=0 if test_mode else 5):
        assert item["category"] in active


@pytest.mark.parametrize("split", ["all", "seen", "unseen"])
def test_boxes_are_all_those_of_the_category_and_no_others(root, split):
    for item in items(build(root, split=split), epochs=5):
        names = SCENES[item["img_id"]]
        expected = [
            [n, 5 * n, 10 + 2 * n, 5 * n + 10] for n, x in enumerate(names) if x == item["category"]
        ]
        assert [one["bbox"] for one in item["instances"]] == expected
        assert {one["bbox_label"] for one in item["instances"]} == {0}
        assert item["category_id"] == IDS[item["category"]]


def test_the_sketch_is_of_the_category(root):
    for item in items(build(root, num_sketches=3), epochs=5):
        assert {name for name, _ in drawn(item)} == {item["category"]}


def test_categories_are_drawn_uniformly_whatever_their_numbers(root):
    dataset = build(root)
    index = next(i for i in range(len(dataset)) if dataset.get_data_info(i)["img_id"] == 11)
    counts = Counter(dataset[Draw(index, (n,))]["category"] for n in range(600))
    assert set(counts) == {"car", "dog"}
    assert abs(counts["car"] - 300) < 60


def test_training_draws_anew_in_each_epoch_and_again_in_a_second_run(root):
    def run():
        return [(x["img_id"], x["category"], drawn(x)) for x in items(build(root), epochs=4)]

    first = run()
    assert first == run()
    by_image = {}
    for image, *choice in first:
        by_image.setdefault(image, []).append(str(choice))
    assert all(len(set(choices)) > 1 for choices in by_image.values())


def test_what_is_drawn_depends_on_the_draw_alone(root):
    dataset = build(root)
    first = drawn(dataset[Draw(0, (1, 2, 3))])
    np.random.rand(5)
    dataset[Draw(1, (1, 2, 4))]
    assert drawn(dataset[Draw(0, (1, 2, 3))]) == first


def test_without_a_seeded_sampler_numpy_decides(root):
    dataset = build(root)
    choices = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        choices.append(str([drawn(dataset[i]) for i in range(len(dataset))]))
    assert choices[0] == choices[1] != choices[2]


def test_evaluation_always_takes_the_same(root):
    def run(**settings):
        dataset = build(root, test_mode=True, drawings="valid", **settings)
        np.random.rand(3)
        return {x["img_id"]: (x["category"], drawn(x)) for x in items(dataset)}

    first = run()
    assert run() == first
    assert run(seed=15) != first
    # an image's choice does not depend on the others
    half = run(indices=[1, 3])
    assert half.items() <= first.items()


def test_training_and_evaluation_share_no_drawing(root):
    train = items(build(root, num_sketches=20), epochs=3)
    valid = items(build(root, drawings="valid", num_sketches=3))
    shown = [{sketch for item in part for sketch in drawn(item)} for part in (train, valid)]
    assert shown[0].isdisjoint(shown[1])
    # a tenth of 30 drawings
    assert set(Counter(name for name, _ in shown[1]).values()) == {3}


def test_several_sketches_are_different_as_far_as_there_are_enough(root):
    for count in (1, 2, 3, 5):
        for item in items(build(root, drawings="test", num_sketches=count)):
            assert len(drawn(item)) == count
            if count <= 3:
                assert len(set(drawn(item))) == count


def test_a_wrong_sketch_changes_nothing_but_the_sketch(root):
    right, wrong = (build(root, test_mode=True, wrong_sketch=w) for w in (False, True))
    assert len(right) == len(wrong)
    for a, b in zip(items(right), items(wrong), strict=True):
        assert a["category"] == b["category"]
        assert a["instances"] == b["instances"]
        assert drawn(a)[0][0] == a["category"] != drawn(b)[0][0]


def test_crowds_are_no_objects(tmp_path):
    scenes = {1: ["car", "dog"], 2: ["car"]}
    write_set(tmp_path / "set", scenes, crowds=[(1, "car"), (2, "car")])
    (item,) = items(build(tmp_path / "set"))
    assert item["img_id"] == 1
    assert item["category"] == "dog"


def test_excluded_categories_leave_the_split_of_the_others(root):
    assert build(root, split="seen", exclude=["car"]).categories == ("apple", "dog")
    assert build(root, split="unseen", exclude=["zebra"]).categories == ("bus",)


def test_the_data_set_has_one_class(root):
    meta = build(root).metainfo
    assert len(meta["classes"]) == len(meta["palette"]) == 1
    assert meta["categories"] == NAMES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(split="val"), "'val'"),
        (dict(drawings="all"), "'all'"),
        (dict(num_sketches=0), "num_sketches=0"),
        (dict(exclude=["unicorn"]), "unicorn"),
        (dict(exclude=NAMES), "too few"),
        (dict(metainfo=dict(classes=["unicorn"])), r"unicorn\.ndjson"),
        (dict(sketch_root="nowhere"), "SKETCH_ROOT"),
        (dict(wrong_sketch=True), "evaluation"),
        (dict(wrong_sketch=True, test_mode=True, exclude=NAMES[1:]), "too few"),
        (dict(ann_file="nowhere.json"), "nowhere.json is missing"),
    ],
)
def test_bad_settings_are_named(root, settings, message):
    with pytest.raises(ValueError, match=message):
        build(root, **settings)


def test_a_category_without_annotations_is_named(root):
    (root / "ndjson/cat.ndjson").write_text((root / "ndjson/dog.ndjson").read_text())
    with pytest.raises(ValueError, match=r"instances\.json.*'cat'"):
        build(root, metainfo=dict(classes=("dog", "cat")))


def test_no_image_is_an_error(tmp_path):
    write_set(tmp_path / "set", {1: ["person"]})
    with pytest.raises(ValueError, match=r"instances\.json has no image"):
        build(tmp_path / "set")


def test_a_damaged_drawing_is_named(tmp_path):
    root = write_set(tmp_path / "set")
    path = root / "ndjson/dog.ndjson"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:-5], *lines[5:]]))
    with pytest.raises(ValueError, match=r"dog\.ndjson:5 is damaged"):
        build(root)


PIPELINE = [
    dict(type="SeedSample"),
    dict(type="LoadWholeImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RenderSketch"),
    dict(type="PackSketchInputs"),
]


@pytest.mark.parametrize("count", [1, 3])
def test_an_item_is_what_the_detector_takes(root, count):
    with DefaultScope.overwrite_default_scope("mmdet"):
        (item, *_) = items(build(root, num_sketches=count, pipeline=PIPELINE))
    width, height = SIDES
    assert item["inputs"].shape == (3, height, width)
    assert item["inputs"].dtype == item["sketches"].dtype == torch.uint8
    assert item["sketches"].shape == (count, 3, 224, 224)
    assert set(item["sketches"].unique().tolist()) == {0, 255}
    assert (item["sketches"] == item["sketches"][:, :1]).all()
    sample = item["data_samples"]
    assert set(sample.gt_instances.labels.tolist()) == {0}
    assert IDS[sample.category] == sample.category_id
    assert sample.ori_shape == sample.img_shape == (height, width)


def test_a_crop_may_leave_no_box(root):
    crop = dict(type="RandomCrop", crop_size=(4, 4), allow_negative_crop=True)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = build(root, pipeline=[*PIPELINE[:4], crop, PIPELINE[4]])
        counts = {len(item["data_samples"].gt_instances) for item in items(dataset, epochs=5)}
    assert 0 in counts


def test_rendering_has_its_options():
    drawings = [[np.array([[0.0, 255], [0, 255]])]] * 2
    plain = RenderSketch().transform(dict(drawings=drawings))["sketches"]
    assert plain.shape == (2, 224, 224)
    settings = dict(line_width=3, antialias=True, fit=True)
    fine = RenderSketch(64, **settings).transform(dict(drawings=drawings))["sketches"]
    assert fine.shape == (2, 64, 64)
    assert len(np.unique(fine)) > 2
    for bad in (dict(size=0), dict(line_width=0)):
        with pytest.raises(ValueError, match="positive"):
            RenderSketch(**bad)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1056)),
        (640, 480, (1056, 800)),
        (200, 900, (288, 1328)),
        (5, 800, (16, 1328)),
    ],
)
def test_sides_are_rounded_down_to_multiples_of_16(height, width, expected):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    out = RoundedResize(scale=(1333, 800)).transform(dict(img=image))
    assert out["img"].shape[:2] == out["img_shape"] == expected
    assert out["scale_factor"] == (expected[1] / width, expected[0] / height)


def test_packing_keeps_what_the_metric_wants():
    assert {"category_id", "img_id", "ori_shape"} <= set(PackSketchInputs().meta_keys)


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_real_pictures_come_with_real_sketches(split, monkeypatch, repository):
    for variable, folder in (("COCO_ROOT", "coco"), ("SKETCH_ROOT", "sketches")):
        if variable not in os.environ:
            monkeypatch.setenv(variable, str(SHARED / folder))
        if not Path(os.environ[variable]).is_dir():
            pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    cfg = Config.fromfile(repository / "configs/_base_/datasets/coco_sketch.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.update(split=split, num_sketches=2)
            dataset = DATASETS.build(loader.dataset)
            index = Draw(0, (1, 2, 3))
            item = dataset[index]
            assert item["data_samples"].category in split_categories(SHARED_CATEGORIES, split)
            assert item["sketches"].shape == (2, 3, 224, 224)
            assert item["sketches"].any(dim=-1).any(dim=-1).all()


def test_all_is_registered():
    assert hybrid_backbones.engine
    for name in ("RenderSketch", "RoundedResize", "PackSketchInputs"):
        assert TRANSFORMS.get(name)

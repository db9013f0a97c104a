"""Laws of images with sketches: which category, which boxes, which sketch."""

from collections import Counter

import numpy as np
import pytest
from sketch_set import IDS, NAMES, SCENES, build, drawn, items, write_set

from hybrid_backbones.locformer.data import SHARED_CATEGORIES, split_categories
from hybrid_backbones.training.seeding import SeededIndex


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data") / "set")


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
    ("subset", "images"),
    [("all", {11, 12, 14, 15, 17}), ("seen", {11, 14, 17}), ("unseen", {12, 14, 15, 17})],
)
def test_images_show_a_category_of_the_subset(root, subset, images, test_mode):
    dataset = build(root, subset=subset, test_mode=test_mode)
    assert {item["img_id"] for item in items(dataset)} == images
    active = split_categories(NAMES, subset)
    assert dataset.categories == active
    for item in items(dataset, epochs=0 if test_mode else 5):
        assert item["category"] in active


@pytest.mark.parametrize("subset", ["all", "seen", "unseen"])
def test_boxes_are_all_those_of_the_category_and_no_others(root, subset):
    for item in items(build(root, subset=subset), epochs=5):
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
    counts = Counter(dataset[SeededIndex(index, (n,))]["category"] for n in range(600))
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
    first = drawn(dataset[SeededIndex(0, (1, 2, 3))])
    np.random.rand(5)
    dataset[SeededIndex(1, (1, 2, 4))]
    assert drawn(dataset[SeededIndex(0, (1, 2, 3))]) == first


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


@pytest.mark.parametrize("ids", [("a", "b"), (-1, -2)], ids=str)
def test_ids_of_images_may_be_text_or_negative(tmp_path, ids):
    root = write_set(tmp_path / "set", {image: ["car", "dog"] for image in ids})
    dataset = build(root, test_mode=True)
    assert [x["img_id"] for x in items(dataset)] == [x["img_id"] for x in items(dataset)]
    # another sketch for each image
    assert len({str(drawn(x)) for x in items(dataset)}) == len(ids)


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


def test_excluded_categories_leave_the_subset_of_the_others(root):
    assert build(root, subset="seen", exclude=["car"]).categories == ("apple", "dog")
    assert build(root, subset="unseen", exclude=["zebra"]).categories == ("bus",)


def test_the_data_set_has_one_class(root):
    meta = build(root).metainfo
    assert len(meta["classes"]) == len(meta["palette"]) == 1
    assert meta["categories"] == NAMES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(subset="val"), "'val'"),
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

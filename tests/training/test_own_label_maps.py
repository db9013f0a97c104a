"""Laws of `own_data` for segmentors: folders, endings and classes of label maps."""

import pytest
from own_data_cases import LABELS, MAPS, head_sizes, read, write_image, write_sets

pytestmark = pytest.mark.upstream


@pytest.fixture
def root(tmp_path):
    return write_sets(tmp_path)


@pytest.mark.parametrize("base", ["own_data_fpn", "upernet_biformer_s"])
def test_everything_of_a_segmentor_follows_from_the_list_of_classes(root, base):
    cfg = read(root, base, **MAPS)
    assert head_sizes(cfg) == {3}
    for loader, part in (("train", "train"), ("val", "val"), ("test", "val")):
        dataset = cfg[f"{loader}_dataloader"].dataset
        assert dataset.type == "CheckedSegDataset"
        assert list(dataset.metainfo.classes) == LABELS
        assert dataset.data_prefix == dict(img_path=f"images/{part}", seg_map_path=f"labels/{part}")
        assert (dataset.img_suffix, dataset.seg_map_suffix) == (".jpg", ".png")
        assert dataset.reduce_zero_label is False


def test_an_ending_of_the_config_is_kept(root):
    options = {f"{x}_dataloader.dataset.seg_map_suffix": "_labels.png" for x in ("train", "val")}
    cfg = read(root, "own_data_fpn", options=options, **MAPS)
    assert cfg.train_dataloader.dataset.seg_map_suffix == "_labels.png"
    assert cfg.test_dataloader.dataset.seg_map_suffix == ".png"


def test_endings_that_the_config_sets_tell_images_and_label_maps_of_one_folder_apart(root):
    write_image(root / "both/a.jpg")
    write_image(root / "both/a_mask.png")
    both = MAPS | {part: dict(images="both", annotations="both") for part in ("train", "val")}
    endings = dict(img_suffix=".jpg", seg_map_suffix="_mask.png")
    options = {
        f"{loader}_dataloader.dataset.{key}": ending
        for loader in ("train", "val", "test")
        for key, ending in endings.items()
    }
    dataset = read(root, "own_data_fpn", options=options, **both).train_dataloader.dataset
    assert {key: dataset[key] for key in endings} == endings
    # of a data set that lacks one, the folder must tell it
    del options["test_dataloader.dataset.img_suffix"]
    with pytest.raises(ValueError, match=r"one ending in .*both.* set img_suffix"):
        read(root, "own_data_fpn", options=options, **both)


def test_images_of_several_endings_are_refused(root):
    write_image(root / "images/train/b.png")
    with pytest.raises(ValueError, match=r"one ending in .*train.* found 1 of \.jpg, 1 of \.png"):
        read(root, "own_data_fpn", **MAPS)


@pytest.mark.parametrize(("reduces", "count"), [(False, 255), (True, 254)])
def test_as_many_classes_as_labels_that_are_not_ignored_are_fine(root, reduces, count):
    own = MAPS | dict(classes=[str(i) for i in range(count)], reduce_zero_label=reduces)
    assert head_sizes(read(root, "own_data_fpn", **own)) == {count}


REFUSED = {
    "no list of classes": ({}, r"own_data\.classes must list .*got None"),
    "text as classes": (dict(classes="soil"), r"must list .*got 'soil'"),
    "no labels": (dict(classes=[]), r"must list .*got \[\]"),
    "numbers as classes": (dict(classes=[1, 2]), r"must list .*got \[1, 2\]"),
    "one class": (dict(classes=["soil"]), r"only 'soil', .* list the background as well"),
    "class twice": (dict(classes=["a", "b", "a"]), r"has a more than once"),
    "labels above 8 bits": (
        dict(classes=[str(i) for i in range(256)]),
        r"has 256 names, but .* at most 255",
    ),
    "labels above 8 bits from 1 on": (
        dict(classes=[str(i) for i in range(255)], reduce_zero_label=True),
        r"has 255 names, but .* at most 254",
    ),
    "text as a switch": (
        dict(classes=LABELS, reduce_zero_label="False"),
        r"reduce_zero_label must be True or False, got 'False'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_classes_that_cannot_be_used_are_refused_in_one_line(root, name):
    own, says = REFUSED[name]
    with pytest.raises(ValueError, match=says) as refusal:
        read(root, "own_data_fpn", **own)
    assert "\n" not in str(refusal.value)

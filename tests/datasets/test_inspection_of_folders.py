"""Laws of the inspection of label maps and folders by class: each planted fault is found."""

import numpy as np
import pytest
from inspection_cases import HEIGHT, WIDTH, cut, noise
from mmengine.registry import DefaultScope
from PIL import Image

from hybrid_backbones.datasets.inspection import images, label_maps
from hybrid_backbones.datasets.inspection.folders import inspect_folders

pytestmark = pytest.mark.upstream


def write_maps(folder, value=1):
    for name in ("a", "b"):
        for kind in ("images", "maps"):
            (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(noise()).save(folder / "images" / f"{name}.jpg")
        labels = np.full((HEIGHT, WIDTH), value, np.uint8)
        labels[0] = 0
        Image.fromarray(labels).save(folder / "maps" / f"{name}.png")


def inspect_maps(folder, **settings):
    settings = dict(
        type="CheckedSegDataset",
        data_root=str(folder),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        metainfo=dict(classes=("soil", "crop", "weed")),
        indices=1,
        pipeline=[dict(type="LoadAnnotationsStrict")],
        **settings,
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return inspect_folders(settings, "set", quiet=True)


def save(array):
    return lambda path: Image.fromarray(array).save(path)


MAPS = {
    "missing": (lambda path: path.unlink(), label_maps.MISSING),
    "cut": (cut, label_maps.UNREADABLE),
    "folder": (lambda path: (path.unlink(), path.mkdir()), images.UNOPENED),
    "colours": (save(noise()), label_maps.NO_LABELS),
    "16 bits": (save(noise((HEIGHT, WIDTH), np.uint16)), label_maps.NO_LABELS),
    "another size": (save(np.zeros((9, 9), np.uint8)), label_maps.RESIZED),
    "label above": (save(np.full((HEIGHT, WIDTH), 3, np.uint8)), label_maps.ABOVE),
    "all ignored": (save(np.full((HEIGHT, WIDTH), 255, np.uint8)), label_maps.EMPTY),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_faulty_label_map_is_found_and_named(tmp_path, name):
    damage, kind = MAPS[name]
    write_maps(tmp_path)
    damage(tmp_path / "maps/b.png")
    found = inspect_maps(tmp_path).problems.examples
    assert found.keys() == {kind}
    assert str(tmp_path / "maps/b.png") in found[kind][0]


@pytest.mark.parametrize(
    ("labels", "reduces", "says"),
    [
        ([0, 255], False, "soil (labels 0, 255): write objects of label 255"),
        ([0, 2, 255], True, "crop (labels 0, 2, 255)"),
        # a set may lack some classes, and others may be all that is in it
        ([0, 1, 255], False, None),
        ([0], False, None),
        ([0, 2], True, None),
    ],
)
def test_objects_that_are_all_ignored_are_a_problem_of_the_set(tmp_path, labels, reduces, says):
    write_maps(tmp_path)
    for path in (tmp_path / "maps").iterdir():
        save(np.resize(np.array(labels, np.uint8), (HEIGHT, WIDTH)))(path)
    found = inspect_maps(tmp_path, reduce_zero_label=reduces).problems.examples
    assert found.keys() == ({label_maps.ONE_CLASS} if says else set())
    if says:
        (example,) = found[label_maps.ONE_CLASS]
        assert example.startswith(says)


def test_images_of_label_maps_are_inspected(tmp_path):
    write_maps(tmp_path)
    cut(tmp_path / "images/b.jpg")
    assert inspect_maps(tmp_path).problems.examples.keys() == {images.UNREADABLE}


def test_the_pixels_of_good_label_maps_are_counted(tmp_path):
    write_maps(tmp_path, value=2)
    findings = inspect_maps(tmp_path)
    assert not findings.problems
    assert findings.num_pixels == dict(soil=2 * WIDTH, weed=2 * WIDTH * (HEIGHT - 1))
    assert findings.num_images == dict(soil=2, weed=2)
    # with label 0 ignored, the classes count from 1
    findings = inspect_maps(tmp_path, reduce_zero_label=True)
    assert not findings.problems
    assert findings.num_pixels == dict(crop=2 * WIDTH * (HEIGHT - 1))


def test_folders_by_class_are_counted(tmp_path):
    for name, count in (("cat", 2), ("dog", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(noise()).save(tmp_path / name / f"{i}.png")
    cut(tmp_path / "dog/0.png")
    settings = dict(type="CustomDataset", data_root=str(tmp_path), data_prefix="", pipeline=[])
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        findings = inspect_folders(settings, "set", quiet=True)
    assert findings.num_images == dict(cat=2, dog=1)
    assert findings.problems.examples.keys() == {images.UNREADABLE}

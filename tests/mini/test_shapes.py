"""Laws of the embedded mini set: what is drawn, what is annotated, and how it reaches the disk."""

import hashlib
import multiprocessing

import numpy as np
import pytest
from numpy.random import PCG64, Generator
from PIL import Image
from pycocotools.coco import COCO

from hybrid_backbones.mini import shapes
from hybrid_backbones.mini.shapes import CLASSES, PALETTE, draw_mini, draw_scene

# of version 1, over names, decoded pixels and annotations
DIGEST = "a47bae3f63a863df6481c8e05c4129694281034d94f8475d9ba583b7d9b1df2c"

each_half = pytest.mark.parametrize(
    ("coco", "ade", "imagenet"),
    [("train2017", "training", "train"), ("val2017", "validation", "val")],
    ids=["train", "val"],
)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return draw_mini(tmp_path_factory.mktemp("data") / "mini")


@pytest.fixture
def few_pictures(monkeypatch):
    """Make drawing cheap where only the way to the disk is tested."""
    monkeypatch.setattr(shapes, "SCENES", (("train2017", "training", 2),))
    monkeypatch.setattr(shapes, "SINGLES", (("train", 1),))


def read_pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def read_files(root):
    """Map each name to what a reader sees: pixels instead of the bytes of one PNG compressor."""
    contents = {}
    for path in root.rglob("*.*"):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".png":
            pixels = read_pixels(path)
            contents[name] = f"{pixels.shape} {pixels.dtype} ".encode() + pixels.tobytes()
        elif path.is_file():
            contents[name] = path.read_bytes()
    return contents


def read_scenes(root, split):
    """Yield the image record, annotations and decoded masks (N, H, W) of every scene."""
    coco = COCO(root / f"coco/annotations/instances_{split}.json")
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        yield image, annotations, np.stack([coco.annToMask(one) for one in annotations])


def test_every_machine_draws_the_same(mini):
    total = hashlib.sha256()
    for name, content in sorted(read_files(mini).items()):
        total.update(name.encode() + content)
    assert total.hexdigest() == DIGEST


def test_two_drawings_are_equal(mini, tmp_path):
    assert read_files(draw_mini(tmp_path / "again")) == read_files(mini)


def test_a_picture_does_not_depend_on_those_before_it(mini):
    # seed 2 is ImageNet's training half, and label 3 is picture 9's turn
    image, _, _ = draw_scene(Generator(PCG64([2, 9])), 64, 64, [3], shapes=shapes.SINGLE_SHAPES)
    assert np.array_equal(image, read_pixels(mini / "imagenet/train" / CLASSES[3] / "0009.png"))


def test_one_table_of_colours_serves_all_tasks():
    assert len(PALETTE) == len(CLASSES) + 1
    assert len(set(PALETTE)) == len(PALETTE)


def test_sorted_class_folders_give_the_labels(mini):
    for half in ("train", "val"):
        assert tuple(sorted(path.name for path in (mini / "imagenet" / half).iterdir())) == CLASSES


@each_half
def test_boxes_and_areas_are_those_of_the_masks(mini, coco, ade, imagenet):
    for _, annotations, masks in read_scenes(mini, coco):
        for annotation, mask in zip(annotations, masks, strict=True):
            (top, left), (bottom, right) = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
            assert annotation["bbox"] == [left, top, right - left, bottom - top]
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0


@each_half
def test_masks_of_one_scene_are_disjoint(mini, coco, ade, imagenet):
    for _, _, masks in read_scenes(mini, coco):
        assert masks.sum(axis=0).max() == 1


@each_half
def test_label_map_is_the_union_of_the_masks(mini, coco, ade, imagenet):
    for image, annotations, masks in read_scenes(mini, coco):
        expected = np.ones((image["height"], image["width"]), dtype=np.uint8)
        for annotation, mask in zip(annotations, masks, strict=True):
            expected[mask == 1] = annotation["category_id"] + 1
        label_map = read_pixels(mini / "ade/annotations" / ade / image["file_name"])
        assert label_map.dtype == np.uint8
        assert np.array_equal(label_map, expected)


@each_half
def test_detection_and_segmentation_share_their_pictures(mini, coco, ade, imagenet):
    for image, _, _ in read_scenes(mini, coco):
        pixels = read_pixels(mini / "coco" / coco / image["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        same = read_pixels(mini / "ade/images" / ade / image["file_name"])
        assert np.array_equal(pixels, same)


@each_half
def test_every_class_and_size_occurs(mini, coco, ade, imagenet):
    annotations = [one for _, scene, _ in read_scenes(mini, coco) for one in scene]
    assert {one["category_id"] for one in annotations} == set(range(1, len(CLASSES) + 1))
    sides = [max(one["bbox"][2:]) for one in annotations]
    assert min(sides) < 20
    assert max(sides) > 60
    for name in CLASSES:
        assert any((mini / "imagenet" / imagenet / name).iterdir())


def test_no_shape_loses_too_much_to_later_ones():
    for seed in range(50):
        labels = [seed % len(CLASSES)] * 8
        alone = draw_scene(Generator(PCG64(seed)), 96, 128, labels[:1], shapes=(40, 60))[1][0]
        _, masks, _ = draw_scene(Generator(PCG64(seed)), 96, 128, labels, shapes=(40, 60))
        assert not (masks[0] & ~alone).any()
        assert 100 * masks[0].sum() >= (100 - shapes.MAX_HIDDEN) * alone.sum()


def test_a_set_that_is_there_is_not_drawn_again(mini):
    before = {path: path.stat().st_mtime_ns for path in mini.rglob("*")}
    assert draw_mini(str(mini)) == mini
    assert {path: path.stat().st_mtime_ns for path in mini.rglob("*")} == before


@pytest.mark.usefixtures("few_pictures")
def test_a_set_of_another_version_is_replaced(tmp_path):
    root = draw_mini(tmp_path / "mini")
    (root / shapes.MARKER).write_text("0")
    (root / "leftover.png").touch()
    draw_mini(root)
    assert (root / shapes.MARKER).read_text() == shapes.VERSION
    assert not (root / "leftover.png").exists()
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("older", [False, True], ids=["nothing_there", "older_there"])
def test_racing_processes_leave_one_whole_set(tmp_path, monkeypatch, older):
    root, alone = tmp_path / "race" / "mini", draw_mini(tmp_path / "alone")
    if older:
        draw_mini(root)
        (root / shapes.MARKER).write_text("0")
    # forked processes inherit the patch: both have drawn before either may publish
    fork = multiprocessing.get_context("fork")
    barrier, publish = fork.Barrier(2), shapes._publish
    monkeypatch.setattr(shapes, "_publish", lambda *paths: (barrier.wait(60), publish(*paths)))
    racers = [fork.Process(target=draw_mini, args=(root,)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert list(root.parent.iterdir()) == [root]
    assert read_files(root) == read_files(alone)


@pytest.mark.usefixtures("few_pictures")
def test_a_killed_drawing_does_not_disturb(tmp_path):
    root, alone = tmp_path / "killed" / "mini", draw_mini(tmp_path / "alone")
    fork = multiprocessing.get_context("fork")
    half_way = fork.Event()

    def hang(*_):
        half_way.set()
        fork.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_write_singles", hang)
        victim = fork.Process(target=draw_mini, args=(root,))
        victim.start()
    assert half_way.wait(60)
    victim.kill()
    victim.join(60)
    assert not root.exists()
    assert len(list(root.parent.iterdir())) == 1
    assert read_files(draw_mini(root)) == read_files(alone)
    # nor does anything of it remain
    assert list(root.parent.iterdir()) == [root]


@pytest.mark.usefixtures("few_pictures")
def test_an_empty_folder_is_filled(tmp_path):
    assert (draw_mini(tmp_path) / shapes.MARKER).exists()


def test_a_foreign_folder_is_refused_and_untouched(tmp_path):
    root = tmp_path / "coco"
    root.mkdir()
    (root / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        draw_mini(root)
    assert [path.name for path in root.iterdir()] == ["thesis.txt"]
    assert list(tmp_path.iterdir()) == [root]
    assert (root / "thesis.txt").read_text() == "precious"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "mini").write_text("precious")
    with pytest.raises(ValueError, match="a file"):
        draw_mini(tmp_path / "mini")
    assert (tmp_path / "mini").read_text() == "precious"

"""Laws of label maps: the host's labels, of the image's size and of the classes; or one line."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from inspection_cases import write_png
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image

import hybrid_backbones.training
from hybrid_backbones.datasets.inspection.images import ImageReport
from hybrid_backbones.datasets.inspection.label_maps import inspect_label_map
from hybrid_backbones.datasets.segmentation import CheckedADE20KDataset
from hybrid_backbones.mini.preset import apply_mini

pytestmark = pytest.mark.upstream
SHARED = Path(__file__).resolve().parents[3] / "shared/realdata/ade"
SIZE = (24, 16)
CLASSES = ("wall", "floor", "tree")
# of the file: 0 is no class, 255 is ignored
LABELS = np.random.default_rng(0).choice([0, 1, 2, 3, 255], SIZE[::-1]).astype(np.uint8)


def dataset(root, kind="CheckedSegDataset", classes=CLASSES, reduce_zero_label=True, **settings):
    with DefaultScope.overwrite_default_scope("mmseg"):
        return DATASETS.build(
            dict(
                type=kind,
                data_root=str(root),
                data_prefix=dict(img_path="images", seg_map_path="labels"),
                reduce_zero_label=reduce_zero_label,
                metainfo=dict(classes=classes),
                pipeline=[dict(type="LoadImageStrict"), dict(type="LoadAnnotationsStrict")],
                **settings,
            )
        )


def write(root, labels=LABELS, size=SIZE):
    (root / "images").mkdir()
    (root / "labels").mkdir()
    Image.new("RGB", size).save(root / "images/1.jpg")
    path = root / "labels/1.png"
    Image.fromarray(labels).save(path)
    return path


def as_palette(labels):
    picture = Image.fromarray(labels).convert("P")
    picture.putdata(labels.ravel().tolist())
    return picture


@pytest.mark.parametrize("reduce_zero_label", [True, False])
@pytest.mark.parametrize("make", [Image.fromarray, as_palette], ids=["grey", "palette"])
@pytest.mark.parametrize("chosen", [slice(None), slice(2, 60)], ids=["all", "some"])
def test_labels_are_the_hosts(tmp_path, reduce_zero_label, make, chosen):
    labels = np.random.default_rng(1).choice([*range(150), 255], SIZE[::-1]).astype(np.uint8)
    make(labels).save(write(tmp_path))
    classes = CheckedADE20KDataset.METAINFO["classes"][chosen]
    data = dataset(tmp_path, "CheckedADE20KDataset", classes, reduce_zero_label)
    expected = TRANSFORMS.build(dict(type="mmseg.LoadAnnotations"))(data.get_data_info(0))
    np.testing.assert_array_equal(data[0]["gt_seg_map"], expected["gt_seg_map"])
    assert len(np.unique(expected["gt_seg_map"])) > 3


def packed(labels, bits):
    """Pack the labels of each row into bytes."""
    values = np.unpackbits(labels[..., None], axis=-1)[..., -bits:]
    return np.packbits(values.reshape(len(labels), -1), axis=1)


def save_png(path, labels, bits):
    write_png(path, labels.shape[1], bits, 0, packed(labels, bits))


def save_tiff(path, labels, bits):
    rows = packed(labels, bits)
    Image.fromarray(rows).save(path, "TIFF")
    content = path.read_bytes()
    # the width and the bits of a pixel, which Pillow cannot choose
    for tag, old, new in ((256, rows.shape[1], labels.shape[1]), (258, 8, bits)):
        (entry,) = {struct.pack("<HHIH", tag, kind, 1, old) for kind in (3, 4)} & {
            content[i : i + 10] for i in range(len(content))
        }
        content = content.replace(entry, entry[:-2] + struct.pack("<H", new))
    path.write_bytes(content)


@pytest.mark.parametrize("save", [save_png, save_tiff], ids=["png", "tiff"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_are_those_of_the_file(tmp_path, save, bits):
    labels = np.random.default_rng(2).integers(0, min(2**bits, 4), SIZE[::-1], dtype=np.uint8)
    path = write(tmp_path, labels)
    data = dataset(tmp_path)
    expected = data[0]["gt_seg_map"]
    assert len(np.unique(expected)) == min(2**bits, 4)
    save(path, labels, bits)
    np.testing.assert_array_equal(data[0]["gt_seg_map"], expected)
    info = data.get_data_info(0)
    report = inspect_label_map(info, ImageReport([]))
    assert not report.problems
    np.testing.assert_array_equal(report.num_pixels, np.bincount(expected.ravel())[:3])


@pytest.mark.parametrize("size", [(40, 1), (1, 40), (1, 1)], ids=str)
def test_a_strip_keeps_its_shape(tmp_path, size):
    write(tmp_path, np.ones(size[::-1], np.uint8), size)
    assert dataset(tmp_path)[0]["gt_seg_map"].shape == size[::-1]


def changed(value):
    labels = LABELS.copy()
    labels[3, 4] = value
    return labels


# name: how the map is damaged, and what the one line says besides its name
DAMAGES = {
    "missing": (lambda path: path.unlink(), "cannot be read"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:60]), "truncated"),
    "text": (lambda path: path.write_text("labels"), "not an image"),
    "colours": (lambda path: Image.new("RGB", SIZE).save(path), "mode RGB.*one channel of 8 bits"),
    "alpha": (lambda path: Image.new("LA", SIZE).save(path), "mode LA.*one channel of 8 bits"),
    "16 bits": (
        lambda path: Image.fromarray(LABELS.astype(np.uint16) + 256).save(path),
        "mode I;16.*8 bits",
    ),
    "smaller": (lambda path: Image.new("L", (9, 7)).save(path), "9×7 pixels.*image 24×16"),
    "turned": (lambda path: Image.fromarray(LABELS.T).save(path), "16×24 pixels.*image 24×16"),
    "above": (lambda path: Image.fromarray(changed(4)).save(path), r"labels \[4\].*3 classes"),
    "far above": (lambda path: Image.fromarray(changed(254)).save(path), r"labels \[254\]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_map_that_does_not_fit_is_named_in_one_line(tmp_path, name):
    damage, says = DAMAGES[name]
    path = write(tmp_path)
    data = dataset(tmp_path)
    assert data[0]["gt_seg_map"].shape == LABELS.shape
    damage(path)
    with pytest.raises(ValueError, match=rf"label map .*1\.png.*{says}") as refusal:
        data[0]
    assert "\n" not in str(refusal.value)


def test_without_a_zero_label_the_file_counts_from_zero(tmp_path):
    write(tmp_path, changed(3))
    with pytest.raises(ValueError, match=r"labels \[3\].*3 classes"):
        dataset(tmp_path, reduce_zero_label=False)[0]


def test_a_choice_of_classes_ignores_the_others_but_not_what_is_no_class(tmp_path):
    path = write(tmp_path, changed(150))
    classes = CheckedADE20KDataset.METAINFO["classes"]
    data = dataset(tmp_path, "CheckedADE20KDataset", classes[1:3])
    assert set(np.unique(data[0]["gt_seg_map"])) == {0, 1, 255}
    Image.fromarray(changed(151)).save(path)
    with pytest.raises(ValueError, match=r"labels \[151\]"):
        data[0]


def test_a_folder_without_images_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"no images \(\*\.tif\) in .*images"):
        dataset(tmp_path, img_suffix=".tif")


def test_an_image_to_predict_on_needs_no_map(tmp_path):
    write(tmp_path)
    step = TRANSFORMS.build(dict(type="LoadAnnotationsStrict"))
    assert step(dict(img_path="1.jpg")) == dict(img_path="1.jpg")


@pytest.mark.parametrize("name", ["ade20k", "ade20k_aligned"])
def test_real_maps_pass(name, repository):
    root = Path(os.environ.get("ADE_ROOT", SHARED))
    if not root.is_dir():
        pytest.skip(f"no real data: neither ADE_ROOT is set nor {SHARED} there")
    cfg = Config.fromfile(repository / f"configs/_base_/datasets/{name}.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            steps = [s for s in loader.dataset.pipeline if s["type"].startswith("Load")]
            data = DATASETS.build(dict(loader.dataset, data_root=str(root), pipeline=steps))
            for i in range(len(data)):
                labels = data[i]["gt_seg_map"]
                assert np.isin(labels, [*range(150), 255]).all()


def test_every_segmentation_config_checks_its_maps(repository, mini_root):
    assert hybrid_backbones.training
    cfg = Config.fromfile(repository / "configs/upernet_r50.py")
    mini = Config.fromfile(repository / "configs/upernet_r50.py")
    apply_mini(mini, mini_root)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, mini.train_dataloader):
        assert loader.dataset.type in ("CheckedADE20KDataset", "CheckedSegDataset")
        assert any(step["type"] == "LoadAnnotationsStrict" for step in loader.dataset.pipeline)

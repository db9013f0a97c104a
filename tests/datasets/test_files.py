"""Laws of loading: a file that cannot be used is named."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.visualization import get_palette
from mmengine.registry import TRANSFORMS
from PIL import Image

from hybrid_backbones.datasets.coco import CheckedCocoDataset

pytestmark = pytest.mark.upstream


IMAGE = dict(id=1, file_name="1.png", height=8, width=8)
ANNOTATION = dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0)
COCO = dict(images=[IMAGE], annotations=[ANNOTATION], categories=[dict(id=1, name="cat")])


def coco_dataset(path, **kwargs):
    settings = dict(ann_file=str(path), data_prefix=dict(img=""), pipeline=[])
    dataset = CheckedCocoDataset(**settings, serialize_data=False, **kwargs)
    dataset.full_init()
    return dataset


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[]", "malformed"),
        (json.dumps(dict(COCO, annotations=[dict(ANNOTATION, category_id=7)])), "category_id.*7"),
        (json.dumps(dict(COCO, annotations=[dict(ANNOTATION, image_id=9)])), "image_id.*9"),
        (json.dumps({k: v for k, v in COCO.items() if k != "categories"}), "malformed"),
        (json.dumps(dict(COCO, categories=[dict(id=1, name="unicorn")])), "missing.*cat"),
        (json.dumps(dict(COCO, images=[dict(id=1)])), "malformed"),
    ],
    ids=["cut", "list", "category", "image", "section", "classes", "no size"],
)
def test_a_wrong_annotation_file_is_named(tmp_path, content, says):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path.name}.*{says}"):
        coco_dataset(path, metainfo=dict(classes=("cat",)))


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.json is missing"):
        coco_dataset(tmp_path / "none.json")


def test_unknown_categories_need_a_choice_of_classes(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(dict(COCO, categories=[*COCO["categories"], dict(id=2, name="ox")])))
    with pytest.raises(ValueError, match="unknown"):
        coco_dataset(path)
    assert len(coco_dataset(path, metainfo=dict(classes=("cat",)))) == 1


@pytest.mark.parametrize("count", [3, 80, 120])
def test_each_class_can_be_drawn_in_cocos_colours_as_far_as_they_reach(tmp_path, count):
    names = [f"part {i}" for i in range(count)]
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(dict(COCO, categories=categories)))
    palette = coco_dataset(path, metainfo=dict(classes=names)).metainfo["palette"]
    # as mmdet's visualizer does
    assert get_palette(palette, count) == palette
    assert (palette == CocoDataset.METAINFO["palette"]) == (count <= 80)
    # a checkpoint keeps them
    assert {type(value) for color in palette for value in color} == {int}


def load_image(path):
    return TRANSFORMS.build(dict(type="LoadImageStrict"))(dict(img_path=str(path)))


def test_a_whole_image_is_loaded_in_the_hosts_channel_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    np.testing.assert_array_equal(load_image(tmp_path / "1.png")["img"], pixels[..., ::-1])


@pytest.mark.parametrize("kind", ["missing", "cut", "text", "empty"])
def test_a_broken_image_is_named(tmp_path, kind):
    path = tmp_path / "1.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(dict(cut=content[: len(content) // 2], text=b"no image", empty=b"")[kind])
    with pytest.raises(ValueError, match=r"1\.jpg"):
        load_image(path)

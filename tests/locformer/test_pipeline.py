"""Laws of what happens to images with sketches on their way to the detector."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from sketch_set import IDS, SIDES, build, items, write_set

import hybrid_backbones.training
from hybrid_backbones.locformer.data import (
    SHARED_CATEGORIES,
    PackSketchInputs,
    RenderSketch,
    RoundedResize,
    split_categories,
)
from hybrid_backbones.training.seeding import SeededIndex

SHARED = Path(__file__).resolve().parents[3] / "shared/realdata"
PIPELINE = [
    dict(type="SeedSample"),
    dict(type="LoadImageStrict"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RenderSketch"),
    dict(type="PackSketchInputs"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data") / "set")


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


@pytest.mark.parametrize("subset", ["seen", "unseen"])
def test_real_pictures_come_with_real_sketches(subset, monkeypatch, repository):
    for variable, folder in (("COCO_ROOT", "coco"), ("SKETCH_ROOT", "sketches")):
        if variable not in os.environ:
            monkeypatch.setenv(variable, str(SHARED / folder))
        if not Path(os.environ[variable]).is_dir():
            pytest.skip(f"no real data: neither {variable} is set nor {SHARED / folder} there")
    cfg = Config.fromfile(repository / "configs/_base_/datasets/coco_sketch.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.update(subset=subset, num_sketches=2)
            dataset = DATASETS.build(loader.dataset)
            index = SeededIndex(0, (1, 2, 3))
            item = dataset[index]
            assert item["data_samples"].category in split_categories(SHARED_CATEGORIES, subset)
            assert item["sketches"].shape == (2, 3, 224, 224)
            assert item["sketches"].any(dim=-1).any(dim=-1).all()


def test_all_is_registered():
    assert hybrid_backbones.training
    for name in ("RenderSketch", "RoundedResize", "PackSketchInputs"):
        assert TRANSFORMS.get(name)

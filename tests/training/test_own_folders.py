"""Laws of `own_data` for classifiers: the names of the folders are the classes, everywhere."""

import numpy as np
import pytest
from mmengine.registry import DATASETS, METRICS, DefaultScope
from own_data_cases import TRAINS_ALONE, read
from PIL import Image
from tiers import one_of_each
from tool_runs import REPOSITORY

from hybrid_backbones.mini.preset import dicts

pytestmark = pytest.mark.upstream
# not in the order of the alphabet
NAMES = ("tulip", "daisy", "Rose", "lily", "aster", "iris")


@pytest.fixture
def root(tmp_path):
    for part in ("train", "val"):
        make(tmp_path, part, NAMES)
    return tmp_path


def make(root, part, names, ending=".webp"):
    for name in names:
        (root / part / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / part / name / f"a{ending}")


BASE = "own_data_classifier"
BASES = sorted(path.stem for path in (REPOSITORY / "configs").glob("imagenet_*.py"))


@pytest.mark.parametrize("base", [BASE, *one_of_each(BASES)])
def test_everything_of_a_classifier_follows_from_the_folders(root, base):
    # which only the config for own data has
    named = {} if base not in BASES else {x: dict(images=x) for x in ("train", "val")}
    cfg = read(root, base, **named)
    counts = {
        x.num_classes for x in dicts([cfg.model, cfg.data_preprocessor]) if "num_classes" in x
    }
    assert counts == {6}
    assert "own_data" not in cfg
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        for loader, part in (("train", "train"), ("val", "val"), ("test", "val")):
            dataset = DATASETS.build(dict(cfg[f"{loader}_dataloader"].dataset, pipeline=[]))
            assert dataset.metainfo["classes"] == tuple(sorted(NAMES))
            for label, name in enumerate(sorted(NAMES)):
                # an ending that mmpretrain leaves out by default
                assert dataset[label] | dict(sample_idx=0) == dict(
                    img_path=str(root / part / name / "a.webp"), gt_label=label, sample_idx=0
                )


@pytest.mark.parametrize(
    ("count", "chosen", "topk"),
    [(6, None, (1, 5)), (5, None, (1,)), (2, None, (1,)), (6, 1, (1,)), (6, 5, (5,)), (5, 5, (1,))],
)
def test_the_metric_is_among_fewer_than_all_classes(tmp_path, count, chosen, topk):
    options = chosen and {f"{x}_evaluator.topk": chosen for x in ("val", "test")}
    for part in ("train", "val"):
        make(tmp_path, part, NAMES[:count])
    cfg = read(tmp_path, BASE, options=options)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            assert METRICS.build(evaluator).topk == topk


def test_a_mini_run_replaces_the_folders(tmp_path, mini_root, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    cfg = read(tmp_path, BASE, mini=True)
    assert cfg.train_dataloader.dataset.data_root == str(mini_root / "imagenet")
    assert "own_data" not in cfg
    assert cfg.load_from is None


def test_a_folder_to_validate_on_is_not_needed_where_nothing_validates(tmp_path):
    make(tmp_path, "train", NAMES)
    cfg = read(tmp_path, BASE, settings=TRAINS_ALONE)
    assert cfg.model.head.num_classes == len(NAMES)
    assert cfg.train_dataloader.dataset.data_prefix == "train"


REFUSED = {
    "other folders": (("val", ["tulip", "rose"]), {}, "only one of them has daisy, rose"),
    "no folders": (("val", []), {}, r"no val in "),
    "one class": (("val", ["daisy"]), {}, "two classes or more in .*train, found daisy"),
    "classes": (None, dict(classes=["tulip"]), r"own_data\.classes: .* leave it out"),
    "zero label": (None, dict(reduce_zero_label=True), r"reduce_zero_label .* leave it out"),
    "annotations": (
        None,
        dict(val=dict(images="val", annotations="val.txt")),
        r"own_data has no 'annotations'",
    ),
    "no images": (None, dict(val={"images": None}), r"does not set val\.images"),
    "no dict": (None, dict(val="val"), "needs root, and train and val, each a dict of images$"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, name):
    val, own, says = REFUSED[name]
    make(tmp_path, "train", ["daisy"] if name == "one class" else ["daisy", "tulip"])
    make(tmp_path, *(val or ("val", ["daisy", "tulip"])))
    with pytest.raises(ValueError, match=says) as refusal:
        read(tmp_path, BASE, **own)
    assert "\n" not in str(refusal.value)

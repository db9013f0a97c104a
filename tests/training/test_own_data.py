"""Laws of `own_data`: data, metrics and heads follow from one place for files and classes."""

import re
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config
from own_data_cases import (
    COCO,
    CONFIGS,
    LABELS,
    MAPS,
    NAMES,
    TRAINS_ALONE,
    head_sizes,
    read,
    read_own,
    write_coco,
    write_image,
    write_sets,
)
from tiers import one_of_each
from tool_runs import REPOSITORY, run_warm

from hybrid_backbones.mini.preset import dicts
from hybrid_backbones.mini.shapes import CLASSES
from hybrid_backbones.training.run_config import read_config

pytestmark = pytest.mark.upstream
PAGE = (REPOSITORY / "docs/own_data.md").read_text()
DETECTORS = [
    "own_data_maskrcnn",
    "cascade_maskrcnn_uniformer_s_3x",
    "retinanet_swiftformer_l1",
    "fasterrcnn_r50",
]


@pytest.fixture
def root(tmp_path):
    return write_sets(tmp_path)


def numbers(settings):
    """Yield all numbers in nested settings, and the lengths of all lists."""
    if isinstance(settings, dict):
        settings = list(settings.values())
    elif isinstance(settings, list | tuple):
        yield len(settings)
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from numbers(value)
    elif isinstance(settings, int | float):
        yield settings


@pytest.mark.parametrize("base", DETECTORS)
def test_everything_of_a_detector_follows_from_the_annotation_file(root, base):
    cfg = read(root, base, **COCO)
    assert head_sizes(cfg) == {3}
    for loader, part in (("train", "train"), ("val", "val"), ("test", "val")):
        dataset = cfg[f"{loader}_dataloader"].dataset
        assert list(dataset.metainfo.classes) == NAMES
        assert Path(dataset.data_root, dataset.ann_file) == root / f"{part}.json"
        assert Path(dataset.data_root, dataset.data_prefix.img) == root / part
    assert {cfg.val_evaluator.ann_file, cfg.test_evaluator.ann_file} == {str(root / "val.json")}
    assert "own_data" not in cfg


# classifiers have another page of laws, and LocFormer has sketches instead of classes
OTHERS = ("imagenet_", "own_data_classifier", "locformer_")
BASES = sorted(x.stem for x in CONFIGS.glob("*.py") if not x.stem.startswith(OTHERS))


@pytest.mark.parametrize("base", one_of_each(BASES))
def test_no_count_of_the_published_classes_is_left(root, base):
    is_segmentor = base.startswith(
        ("fpn_", "upernet_", "segformer_", "mask2former_ade_", "own_data_fpn")
    )
    published, own = (150, MAPS) if is_segmentor else (80, COCO)
    counts = {published, published + 1}
    before = Config.fromfile(CONFIGS / f"{base}.py")
    assert counts & set(numbers(before.model))
    cfg = read(root, base, **own)
    assert not counts & set(numbers(cfg.model))


def weights_of_queries(cfg):
    return [x.class_weight for x in dicts(cfg.model) if isinstance(x.get("class_weight"), list)]


@pytest.mark.parametrize(
    ("base", "own"),
    [("mask2former_coco_uniformer_xxs", COCO), ("mask2former_ade_uniformer_xxs", MAPS)],
)
def test_queries_weigh_own_classes_and_no_object(root, base, own):
    cfg = read(root, base, **own)
    assert weights_of_queries(cfg) == [[1.0, 1.0, 1.0, 0.1]]
    for part in dicts(cfg.model):
        if "num_things_classes" in part:
            assert (part.num_things_classes, part.num_stuff_classes) == (3, 0)
    # weights of one's own stay
    head = "panoptic_head" if own is COCO else "decode_head"
    options = {f"model.{head}.loss_cls.class_weight": [1.0, 2.0, 3.0, 0.5]}
    assert weights_of_queries(read(root, base, options=options, **own)) == [*options.values()]


def test_chosen_classes_keep_the_order_of_the_file_by_which_mmdet_counts(root):
    cfg = read(root, "own_data_maskrcnn", classes=["washer", "nut"])
    assert list(cfg.train_dataloader.dataset.metainfo.classes) == ["nut", "washer"]
    assert head_sizes(cfg) == {2}


def test_the_settings_of_the_dataset_that_are_not_about_files_stay(root):
    options = {"train_dataloader.dataset.indices": 4, "own_data.classes": ["bolt"]}
    dataset = read(root, "own_data_maskrcnn", options=options, classes=None)
    dataset = dataset.train_dataloader.dataset
    assert dataset.indices == 4
    assert dataset.filter_cfg.min_size == 32
    assert list(dataset.metainfo.classes) == ["bolt"]


def test_a_mini_run_replaces_data_and_weights(root, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    cfg = read(root, "own_data_maskrcnn", mini=True, train=dict(images="none"))
    assert head_sizes(cfg) == {len(CLASSES)}
    assert "own_data" not in cfg
    assert cfg.load_from is None


REFUSED = {
    "unknown entry": ("own_data_maskrcnn", dict(roots="x"), r"has no 'roots'; did you mean root"),
    "unknown file": (
        "own_data_maskrcnn",
        dict(train=dict(image="x")),
        r"has no 'image'; did you mean images",
    ),
    "no validation": (
        "maskrcnn_r50",
        dict(train=COCO["train"]),
        r"needs root, and train and val",
    ),
    "no annotations": (
        "maskrcnn_r50",
        dict(train=dict(images="train"), val=COCO["val"]),
        r"does not set train\.annotations",
    ),
    "no root": ("own_data_maskrcnn", dict(root="/none"), r"own_data\.root is /none, which"),
    "no such class": (
        "own_data_maskrcnn",
        dict(classes=["nut", "screw"]),
        r"train\.json has no screw, but nut, bolt, washer",
    ),
    "no dict": ("own_data_maskrcnn", [], r"needs root, and train and val"),
    "number as root": ("own_data_maskrcnn", dict(root=3), r"own_data\.root must be a path.* got 3"),
    "list as images": (
        "own_data_maskrcnn",
        dict(val=dict(images=["val"])),
        r"own_data\.val\.images must be a path.* got \['val'\]",
    ),
    "no root set": ("own_data_maskrcnn", dict(root=None), r"does not set root"),
    "text as categories": ("own_data_maskrcnn", dict(classes="nut"), r"must list .*got 'nut'"),
    "no classes": ("own_data_maskrcnn", dict(classes=[]), r"must list .*got \[\]"),
    "number as classes": ("own_data_maskrcnn", dict(classes=3), r"must list .*got 3"),
    "category twice": ("own_data_maskrcnn", dict(classes=["nut"] * 2), r"has nut more than once"),
    "zero label of categories": (
        "own_data_maskrcnn",
        dict(reduce_zero_label=True),
        r"reduce_zero_label is for label maps.*leave it out",
    ),
    "sketches": ("locformer_swin_t", COCO, r"and classifiers, but .* SketchCocoDataset"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(root, name):
    base, own, says = REFUSED[name]
    own = dict(root=str(root)) | own if isinstance(own, dict) else own
    with pytest.raises(ValueError, match=says) as refusal:
        read_own(root, base, own)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("base", "own"), [("maskrcnn_r50", COCO), ("own_data_fpn", MAPS)])
def test_a_tilde_is_the_home_folder(root, monkeypatch, base, own):
    monkeypatch.setenv("HOME", str(root.parent))
    cfg = read(root, base, **own | dict(root=f"~/{root.name}"))
    assert cfg.train_dataloader.dataset.data_root == str(root)
    val = {key: f"~/{root.name}/{path}" for key, path in own["val"].items()}
    dataset = read(root, base, **own | dict(val=val)).val_dataloader.dataset
    assert {Path(path) for path in dataset.data_prefix.values()} <= {*root.rglob("*")}


@pytest.mark.parametrize(
    ("base", "own"),
    [("own_data_maskrcnn", {}), ("own_data_fpn", dict(classes=LABELS)), ("maskrcnn_r50", COCO)],
)
def test_data_of_sets_that_the_config_does_not_have_are_not_needed(tmp_path, base, own):
    write_sets(tmp_path, parts=["train"])
    own = {key: value for key, value in own.items() if key != "val"}
    cfg = read(tmp_path, base, settings=TRAINS_ALONE, **own)
    assert head_sizes(cfg) == {3}
    assert cfg.train_dataloader.dataset.data_root == str(tmp_path)
    assert cfg.val_dataloader is None
    with pytest.raises(ValueError, match="own_data"):
        read(tmp_path, base, **own)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (NAMES[::-1], r"in another order: nut, bolt, washer to train .* washer, bolt, nut"),
        (NAMES[:2], r"different categories"),
        ([*NAMES, "nut"], r"several categories nut"),
        ([], r"no categories"),
        ([*NAMES, ["screw"]], r"cannot read the categories .*val\.json .*\['screw'\] is no name"),
    ],
    ids=["order", "fewer", "twice", "none", "list"],
)
def test_both_files_need_the_same_categories_in_the_same_order(root, names, says):
    write_coco(root / "val.json", names)
    with pytest.raises(ValueError, match=says):
        read(root, "own_data_maskrcnn")


@pytest.mark.parametrize(
    ("encoding", "says"), [("utf-8-sig", "byte order mark: save"), ("utf-16", "save it as UTF-8")]
)
def test_a_file_in_an_encoding_that_pycocotools_does_not_read_is_refused(root, encoding, says):
    text = (root / "val.json").read_text()
    (root / "val.json").write_text(text, encoding)
    with pytest.raises(ValueError, match=rf"cannot read the categories of .*val\.json.*{says}"):
        read(root, "own_data_maskrcnn")


def examples():
    return re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("name", "text"), examples(), ids=[name for name, _ in examples()])
def test_the_examples_of_the_page_are_short_and_complete(root, name, text):
    assert len(text.splitlines()) <= 5
    folder = re.search(r'root="([^"]+)"', text)[1]
    for part in ("train", "valid"):
        write_coco(root / part / "_annotations.coco.json")
    for part in ("train", "val"):
        for label in LABELS if name == "flowers" else ():
            write_image(root / part / label / "a.jpg")
    (root / f"{name}.py").write_text(text.replace(folder, str(root)))
    args = Namespace(config=str(root / f"{name}.py"), mini=False, cfg_options=None)
    assert head_sizes(read_config(args)) == {3}


def test_the_page_has_an_example_of_each_kind():
    assert len(examples()) == 4


def test_a_mistake_ends_the_command_in_one_line(tmp_path):
    options = ("--cfg-options", f"own_data.root={tmp_path}")
    code, _, err = run_warm("tools/train.py", "configs/own_data_maskrcnn.py", *options)
    assert code == 1
    assert re.match(r"error: own_data: there is no train and no train\.json", err.splitlines()[-1])

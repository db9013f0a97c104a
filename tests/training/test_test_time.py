"""Laws of test-time augmentation: which views there are, and what becomes of their predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose, Resize
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from published_models import CONFIGS, read_config
from tool_runs import run_warm

from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.training.test_time import augment_tests, augmented, remove_masks

NAMES = ("maskrcnn_uniformer_xxs", "fpn_uniformer_xxs", "imagenet_uniformer_xxs")


def views(name):
    """Return the scales and the flips of the views that a config's tests have with --tta."""
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    augment_tests(cfg)
    (*_, tta) = cfg.test_dataloader.dataset.pipeline
    assert tta.type == "TestTimeAug"
    scales = [step.get("scale") for step in tta.transforms[0] if step.type == "Resize"]
    flips = [c for c in tta.transforms if c[0].type == "RandomFlip"]
    return scales, [step.prob for step in flips[0]]


def test_segmentors_are_tested_at_the_published_scales():
    scales = [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
    assert views("upernet_uniformer_s") == (scales, [0.0, 1.0])


def test_semantic_fpn_keeps_its_multiples_of_32_at_every_scale():
    cfg = Config.fromfile(CONFIGS / "fpn_uniformer_s.py")
    augment_tests(cfg)
    kinds = [choice[0].type for choice in cfg.test_dataloader.dataset.pipeline[-1].transforms]
    assert kinds[:3] == ["Resize", "ResizeToMultiple", "RandomFlip"]
    assert views("fpn_uniformer_s")[0] == views("upernet_uniformer_s")[0]


def test_detectors_are_tested_at_three_scales_and_classifiers_at_one():
    assert views("maskrcnn_uniformer_s") == ([(666, 400), (1333, 800), (1999, 1200)], [0.0, 1.0])
    assert views("imagenet_uniformer_s") == ([], [0.0, 1.0])


def test_a_pipeline_of_the_config_counts():
    cfg = Config.fromfile(CONFIGS / "upernet_uniformer_s.py")
    cfg.tta_pipeline = [dict(type="LoadImageFromFile")]
    augment_tests(cfg)
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        (dict(), "tta_model"),
        (dict(tta_model=None), "tta_model"),
        (dict(tta_model=dict(type="SegTTAModel")), r"no step .* packs"),
    ],
)
def test_what_cannot_be_augmented_is_refused(cfg, says):
    dataset = dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile")]))
    with pytest.raises(ValueError, match=says):
        augment_tests(Config(dict(model={}, test_dataloader=dataset, **cfg)))


def test_searches_by_sketch_are_refused():
    with pytest.raises(ValueError, match="tta_model"):
        augment_tests(Config.fromfile(CONFIGS / "locformer_swin_t.py"))


def prepare(name, root):
    """Read a config for the mini set, with predictions of any score."""
    cfg = read_config(name)
    apply_mini(cfg, root)
    if cfg.default_scope == "mmpretrain":
        cfg.model.data_preprocessor = cfg.data_preprocessor
    if cfg.default_scope == "mmdet":
        cfg.model.test_cfg.rcnn.score_thr = 0.0
    return cfg


def predict(cfg, item=0):
    """Predict on one image of the test set, or on an image file, at seeded weights."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.no_grad():
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).eval()
        remove_masks(model)
        settings = cfg.test_dataloader.dataset
        if isinstance(item, Path):
            data = Compose(settings.pipeline)(dict(img_path=str(item), reduce_zero_label=True))
        else:
            data = DATASETS.build(settings)[item]
        (found,) = model.test_step(pseudo_collate([data]))
    if cfg.default_scope == "mmseg":
        return [found.pred_sem_seg.data.squeeze(0)]
    if cfg.default_scope == "mmpretrain":
        return [found.pred_score]
    assert len(found.pred_instances) > 10
    return [found.pred_instances[name] for name in ("bboxes", "scores", "labels")]


@pytest.mark.upstream
@pytest.mark.parametrize("name", NAMES)
def test_one_scale_without_flips_is_the_plain_test(name, mini_root):
    plain, cfg = prepare(name, mini_root), prepare(name, mini_root)
    cfg.merge_from_dict(dict(tta_ratios=[1.0], tta_flip=False))
    augment_tests(cfg)
    expected = predict(plain)
    torch.testing.assert_close(predict(cfg), expected)
    assert expected[0].numel()


@pytest.mark.parametrize("ratios", [[1.0], [0.5, 1.5]], ids=str)
def test_a_flipped_image_has_the_flipped_map(ratios, mini_root, tmp_path):
    image = np.array(Image.open(sorted(mini_root.glob("ade/images/validation/*.png"))[0]))
    for name, pixels in (("as_is", image), ("flipped", image[:, ::-1])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    cfg = prepare("fpn_uniformer_xxs", mini_root)
    before = [predict(cfg, tmp_path / f"{name}.png")[0] for name in ("as_is", "flipped")]
    assert not torch.equal(before[0], before[1].flip(-1))
    cfg.tta_ratios = ratios
    augment_tests(cfg)
    after = [predict(cfg, tmp_path / f"{name}.png")[0] for name in ("as_is", "flipped")]
    assert (after[0] == after[1].flip(-1)).float().mean() > 0.999


def test_scores_of_a_class_are_the_mean_over_the_views(mini_root, tmp_path):
    image = np.array(Image.open(sorted(mini_root.glob("imagenet/val/*/*.png"))[0]))
    for name, pixels in (("as_is", image), ("flipped", image[:, ::-1])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    cfg = prepare("imagenet_uniformer_xxs", mini_root)
    (first,), (second,) = (predict(cfg, tmp_path / f"{n}.png") for n in ("as_is", "flipped"))
    augment_tests(cfg)
    torch.testing.assert_close(predict(cfg, tmp_path / "as_is.png"), [(first + second) / 2])


def test_labels_that_are_loaded_late_are_not_flipped(mini_root):
    plain, cfg = prepare("fpn_uniformer_xxs", mini_root), prepare("fpn_uniformer_xxs", mini_root)
    augment_tests(cfg)
    with DefaultScope.overwrite_default_scope("mmseg"):
        (view,) = [DATASETS.build(plain.test_dataloader.dataset)[0]]
        augmented_views = DATASETS.build(cfg.test_dataloader.dataset)[0]
    labels = view["data_samples"].gt_sem_seg.data
    assert len(augmented_views["inputs"]) == 12
    for sample in augmented_views["data_samples"]:
        assert torch.equal(sample.gt_sem_seg.data, labels)


def test_flips_are_packed_where_the_config_lists_what_is_packed():
    steps = [dict(type="Resize", scale=(8, 4)), dict(type="PackDetInputs", meta_keys=("img_id",))]
    (tta,) = augmented([ConfigDict(step) for step in steps], [1.0])
    assert tta["transforms"][-1][0]["meta_keys"] == ("img_id", "flip", "flip_direction")


@pytest.mark.parametrize("kind", ["Resize", "mmdet.Resize", Resize], ids=str)
def test_one_number_is_the_size_of_both_sides(kind):
    steps = [dict(type=kind, scale=384), dict(type="PackDetInputs")]
    (tta,) = augmented([ConfigDict(step) for step in steps], [0.5, 1.0])
    assert [step["scale"] for step in tta["transforms"][0]] == [(192, 192), (384, 384)]


def test_each_of_several_test_sets_is_augmented():
    cfg = Config.fromfile(CONFIGS / "fpn_uniformer_s.py")
    one = cfg.test_dataloader.dataset
    short = dict(one, pipeline=[one.pipeline[0], dict(type="PackSegInputs")])
    other = dict(type="RepeatDataset", times=2, dataset=short)
    cfg.test_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, other])
    augment_tests(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    for dataset, num_steps in ((first, 5), (second.dataset, 3)):
        *_, tta = dataset.pipeline
        assert (tta.type, len(tta.transforms)) == ("TestTimeAug", num_steps)


def test_a_test_set_that_is_there_twice_is_augmented_once():
    cfg = Config.fromfile(CONFIGS / "fpn_uniformer_s.py")
    one = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type="ConcatDataset", datasets=[])
    cfg.test_dataloader.dataset.datasets += [one, one]
    augment_tests(cfg)
    assert [step.type for step in one.pipeline] == ["LoadImageFromFile", "TestTimeAug"]


def test_drawings_of_many_views_are_refused(tmp_path):
    command = ("tools/test.py", f"configs/{NAMES[2]}.py", "w.pth", "--mini", "--work-dir", tmp_path)
    code, _, err = run_warm(*command, "--tta", "--show-dir", tmp_path / "shown")
    assert code == 1
    assert "--show-dir draws one view" in err.splitlines()[-1]
    assert not (tmp_path / "shown").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        (NAMES[0], {"coco/bbox_mAP"}),
        (NAMES[1], {"mIoU"}),
        (NAMES[2], {"accuracy/top1"}),
    ],
)
def test_the_command_measures_what_can_be_merged(name, metrics, mini_root, tmp_path):
    cfg = prepare(name, mini_root)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / "w.pth")
    options = ("test_dataloader.dataset.indices=3",)
    command = ("tools/test.py", f"configs/{name}.py", tmp_path / "w.pth", "--mini", "--tta")
    code, out, err = run_warm(*command, "--work-dir", tmp_path, "--cfg-options", *options)
    assert code == 0, err
    (path,) = tmp_path.glob("*/*_*.json")
    found = json.loads(path.read_text())
    assert metrics <= found.keys()
    assert not any("segm" in metric for metric in found)
    assert ("mmdet merges no masks" in out) == (name == NAMES[0])

"""Every config parses, says what it is, builds, trains a step and predicts, on the mini set."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from tiers import one_of_each

from hybrid_backbones.benchmark.zoo import find_configs
from hybrid_backbones.inference.demo import demo
from hybrid_backbones.mini.preset import apply_mini, dicts
from hybrid_backbones.training.checks import require_channels

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.py"))
# those for own data have the models of others
ZOO = find_configs(CONFIGS[0].parent)
EACH = one_of_each(ZOO, pytest.mark.upstream)
NO_CLASSIFIER = one_of_each(path for path in ZOO if not path.stem.startswith("imagenet_"))
# heads whose training resizes by chance, in one of several ways
MANY_SIZES = ("locformer_", "dino_", "deformable_detr_", "mask2former_coco_", "rtmdet")
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
each_kind_of_config = pytest.mark.parametrize("path", one_of_each(CONFIGS))


@cache
def parsed(path):
    """Return a config that no test changes."""
    return Config.fromfile(path)


@every_config
def test_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert f"python tools/train.py configs/{path.name}" in docstring
    assert re.search(r"^Published: +\S", docstring, re.MULTILINE)
    assert len(text.splitlines()) <= 30


@each_kind_of_config
def test_trains_to_the_end_of_its_schedule_on_the_set_that_its_name_says(path):
    cfg = parsed(path)
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.get("max_iters")
    assert cfg.param_scheduler[-1].get("end", length) == length
    pipeline = cfg.train_dataloader.dataset.pipeline
    if cfg.default_scope == "mmdet":
        sizes = [t.scale for t in pipeline if t.type == "Resize"]
        many = path.stem.endswith("_3x") or path.stem.startswith(MANY_SIZES)
        assert sizes == ([] if many else [(1333, 800)])
    elif cfg.default_scope == "mmseg":
        crops = [t.crop_size for t in pipeline if "crop_size" in t]
        assert crops == [(512, 512)]
        assert cfg.model.decode_head.num_classes == 150
    else:
        assert cfg.model.head.num_classes == 1000


@each_kind_of_config
def test_takes_its_data_root_from_the_environment(path, monkeypatch):
    variables = dict(mmdet="COCO_ROOT", mmseg="ADE_ROOT", mmpretrain="IMAGENET_ROOT")
    default = parsed(path)
    assert default.train_dataloader.dataset.data_root.startswith("data/")
    monkeypatch.setenv(variables[default.default_scope], "somewhere")
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.dataset.data_root == "somewhere"
    assert cfg.val_dataloader.dataset.data_root == "somewhere"
    if cfg.default_scope == "mmdet":
        assert cfg.val_evaluator.ann_file == "somewhere/annotations/instances_val2017.json"


@each_kind_of_config
def test_its_optimizer_takes_each_parameter_once_and_its_head_the_channels(path):
    cfg = parsed(path)
    # weights need no values, but mmpretrain's ResNet reads its stochastic depths from a tensor
    device = "cpu" if path.stem == "imagenet_r50" else "meta"
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device(device):
            model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    taken = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    # the optimizer wrapper adds a scalar of its own, of which it logs the learning rate
    assert [taken[id(p)] for p in model.parameters()] == [1] * len(list(model.parameters()))
    backbone = {id(p) for p in model.backbone.parameters()}
    groups = [g for g in optimizer.param_groups if not backbone.isdisjoint(map(id, g["params"]))]
    assert len({group["lr"] for group in groups}) == 1, "the backbone has one rate"
    require_channels(cfg.model, model.backbone)


@pytest.mark.parametrize("path", EACH)
def test_trains_a_step_and_predicts_on_two_mini_pictures(path, mini_root):
    cfg = Config.fromfile(path)
    apply_mini(cfg, mini_root)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        train_a_step_and_predict(cfg)


@pytest.mark.parametrize("name", ["maskrcnn_acmix_r26", "upernet_acmix_r26"])
def test_the_demo_draws_over_the_whole_image(name, mini_root, tmp_path):
    cfg = Config.fromfile(CONFIGS[0].with_name(f"{name}.py"))
    apply_mini(cfg, mini_root)
    dataset = cfg.val_dataloader.dataset
    image = next(mini_root.glob("coco/val2017/*.png"))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        weights = MODELS.build(cfg.model).state_dict()
        meta = dict(dataset_meta=dict(dataset.metainfo))
        torch.save(dict(state_dict=weights, meta=meta), tmp_path / "epoch_1.pth")
        out = tmp_path / "new" / "prediction.png"
        demo(cfg, image, tmp_path / "epoch_1.pth", out, score_thr=0.0)
    with Image.open(out) as picture, Image.open(image) as original:
        assert picture.width >= original.width
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 2


@pytest.mark.parametrize("path", NO_CLASSIFIER)
def test_processes_wait_for_no_gradient_that_a_batch_without_objects_does_not_have(path, mini_root):
    cfg = Config.fromfile(path)
    apply_mini(cfg, mini_root)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model, batch = model_and_batch(cfg)
        for sample in batch["data_samples"]:
            if "gt_instances" in sample:
                sample.gt_instances = sample.gt_instances[:0]
            if "gt_sem_seg" in sample:
                sample.gt_sem_seg.data.fill_(255)
        backward(model, batch)
    is_missing = any(p.grad is None for p in model.parameters() if p.requires_grad)
    assert is_missing == cfg.get("find_unused_parameters", False)


def train_a_step_and_predict(cfg):
    # masks of a hundred boxes that mean nothing would take half of the time
    for settings in dicts(cfg.model.get("test_cfg", {})):
        if "max_per_img" in settings:
            settings.max_per_img = 10
    model, batch = model_and_batch(cfg)
    loss = backward(model, batch)
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.backbone.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)

    model.eval()
    val_set = DATASETS.build(cfg.val_dataloader.dataset)
    for i in (0, 1):
        (prediction,) = model.test_step(pseudo_collate([val_set[i]]))
        if cfg.default_scope == "mmseg":
            assert prediction.pred_sem_seg.data.shape[1:] == prediction.ori_shape
        elif cfg.default_scope == "mmdet":
            assert torch.isfinite(prediction.pred_instances.bboxes).all()
        else:
            torch.testing.assert_close(prediction.pred_score.sum(), torch.tensor(1.0))


def model_and_batch(cfg):
    """Build the model of a mini run, and a batch of two training images."""
    if cfg.default_scope == "mmpretrain":
        cfg.model.data_preprocessor = cfg.data_preprocessor
    # synchronised normalisation is for several processes; the Runner reverts it likewise
    for settings in dicts(cfg.model):
        if settings.get("type") == "SyncBN":
            settings.type = "BN"
    model = MODELS.build(cfg.model)
    model.init_weights()
    # the first transform of a training wants its sampler
    cfg.train_dataloader.dataset.pipeline.pop(0)
    train_set = DATASETS.build(cfg.train_dataloader.dataset)
    return model.train(), pseudo_collate([train_set[0], train_set[1]])


def backward(model, batch):
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()
    return loss

"""Every config parses, says what it is, builds, trains a step and predicts, on the mini set."""

import ast
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from torchvision.ops import StochasticDepth

from hybrid_backbones.engine.demo import demo
from hybrid_backbones.engine.mini import apply_mini, dicts

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.py"))
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def mini_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "mini"


@every_config
def test_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert f"python tools/train.py configs/{path.name}" in docstring
    assert re.search(r"^Published: +\S", docstring, re.MULTILINE)
    assert len(text.splitlines()) <= 30


# epochs or iterations and pictures a step of each schedule, by the beginning of a config's name
SCHEDULES = {
    "maskrcnn_.*_3x|cascade_maskrcnn_.*_3x": (36, 16),
    "maskrcnn_swiftformer_.*": (12, 32),
    "(maskrcnn|cascade_maskrcnn|fasterrcnn|retinanet)_.*": (12, 16),
    "locformer_.*": (12, 7),
    "upernet_.*|fpn_r50": (160_000, 16),
    "fpn_swiftformer_.*": (40_000, 32),
    "fpn_.*": (80_000, 32),
    "imagenet_((acmix|xvolution)_)?r[0-9]+(_sa)?": (90, 128),
    "imagenet_uniformer_xx?s": (600, 4096),
    "imagenet_swiftformer_.*": (300, 2048),
    "imagenet_.*": (300, 1024),
}
# learning rate, weight decay and stochastic depth, where these are published
RECIPES = {
    "maskrcnn_uniformer_s": (1e-4, 0.05, 0.2),
    "maskrcnn_uniformer_b": (1e-4, 0.05, 0.3),
    "maskrcnn_uniformer_s_3x": (1e-4, 0.05, 0.1),
    "maskrcnn_uniformer_b_3x": (1e-4, 0.05, 0.3),
    "maskrcnn_uniformer_xxs": (1e-4, 0.05, 0.0),
    "maskrcnn_uniformer_xs": (1e-4, 0.05, 0.15),
    "cascade_maskrcnn_uniformer_s_3x": (1e-4, 0.05, 0.2),
    "cascade_maskrcnn_uniformer_b_3x": (1e-4, 0.05, 0.4),
    "maskrcnn_biformer_s": (1e-4, 0.05, 0.2),
    "maskrcnn_biformer_b": (1e-4, 0.05, 0.3),
    "retinanet_biformer_s": (1e-4, 1e-4, 0.2),
    "retinanet_biformer_b": (1e-4, 1e-4, 0.3),
    "upernet_uniformer_s": (6e-5, 0.01, 0.25),
    "upernet_uniformer_b": (6e-5, 0.01, 0.4),
    "upernet_uniformer_s_h14": (6e-5, 0.01, 0.25),
    "upernet_uniformer_b_h14": (6e-5, 0.01, 0.4),
    "upernet_biformer_s": (6e-5, 0.01, 0.3),
    "upernet_biformer_b": (6e-5, 0.01, 0.4),
    "fpn_uniformer_s": (2e-4, 1e-4, 0.1),
    "fpn_uniformer_b": (2e-4, 1e-4, 0.2),
    "fpn_uniformer_xxs": (2e-4, 1e-4, 0.0),
    "fpn_uniformer_xs": (2e-4, 1e-4, 0.1),
    "fpn_biformer_s": (2e-4, 1e-4, 0.15),
    "fpn_biformer_b": (2e-4, 1e-4, 0.3),
    "imagenet_uniformer_s": (1e-3, 0.05, 0.1),
    "imagenet_uniformer_s_plus": (1e-3, 0.05, 0.1),
    "imagenet_uniformer_s_plus_dim64": (1e-3, 0.05, 0.1),
    "imagenet_uniformer_b": (8e-4, 0.05, 0.3),
    "imagenet_uniformer_b_ls": (8e-4, 0.05, 0.3),
    "imagenet_uniformer_xxs": (3.2e-3, 0.1, 0.0),
    "imagenet_uniformer_xs": (4e-3, 0.05, 0.1),
    "imagenet_biformer_t": (1e-3, 0.05, 0.1),
    "imagenet_biformer_s": (1e-3, 0.05, 0.15),
    "imagenet_biformer_stl": (1e-3, 0.05, 0.1),
    "imagenet_swiftformer_xs": (2e-3, 0.025, 0.0),
    "imagenet_swiftformer_s": (2e-3, 0.025, 0.0),
    "imagenet_swiftformer_l1": (2e-3, 0.025, 0.0),
    "imagenet_swiftformer_l3": (2e-3, 0.025, 0.0),
    "imagenet_mixformer_b0": (8e-4, 0.04, 0.0),
    "imagenet_mixformer_b1": (8e-4, 0.04, 0.0),
    "imagenet_mixformer_b2": (8e-4, 0.04, 0.05),
    "imagenet_mixformer_b3": (8e-4, 0.04, 0.1),
    "imagenet_mixformer_b4": (1e-3, 0.05, 0.2),
    "imagenet_mixformer_b5": (1e-3, 0.05, 0.3),
    "imagenet_mixformer_b6": (1e-3, 0.05, 0.5),
    "imagenet_acmix_swin_t": (1e-3, 0.05, 0.2),
    "imagenet_acmix_swin_s": (1e-3, 0.05, 0.3),
}


@every_config
def test_follows_the_published_schedule(path):
    cfg = Config.fromfile(path)
    length, batch = next(
        schedule for name, schedule in SCHEDULES.items() if re.fullmatch(name, path.stem)
    )
    assert cfg.auto_scale_lr.base_batch_size == batch
    settings = cfg.train_cfg
    assert (settings.get("max_epochs") or settings.get("max_iters")) == length
    assert cfg.param_scheduler[-1].get("end", length) == length
    pipeline = cfg.train_dataloader.dataset.pipeline
    if cfg.default_scope == "mmdet":
        sizes = [t.scale for t in pipeline if t.type == "Resize"]
        # the others resize by chance, in one of several ways
        many = path.stem.endswith("_3x") or path.stem.startswith("locformer_")
        assert sizes == ([] if many else [(1333, 800)])
    elif cfg.default_scope == "mmseg":
        crops = [t.crop_size for t in pipeline if "crop_size" in t]
        assert crops == [(512, 512)]
        assert cfg.model.decode_head.num_classes == 150
    else:
        assert cfg.model.head.num_classes == 1000


@pytest.mark.parametrize("name", RECIPES)
def test_follows_the_published_recipe(name):
    cfg = Config.fromfile(CONFIGS[0].with_name(f"{name}.py"))
    optimizer = cfg.optim_wrapper.optimizer
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        backbone = MODELS.build(cfg.model.backbone)
    rates = [m.p for m in backbone.modules() if isinstance(m, StochasticDepth)]
    recipe = (optimizer.lr, optimizer.weight_decay, max(rates, default=0.0))
    assert recipe == pytest.approx(RECIPES[name])


@every_config
def test_takes_its_data_root_from_the_environment(path, monkeypatch):
    variables = dict(mmdet="COCO_ROOT", mmseg="ADE_ROOT", mmpretrain="IMAGENET_ROOT")
    default = Config.fromfile(path)
    assert default.train_dataloader.dataset.data_root.startswith("data/")
    monkeypatch.setenv(variables[default.default_scope], "somewhere")
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.dataset.data_root == "somewhere"
    assert cfg.val_dataloader.dataset.data_root == "somewhere"
    if cfg.default_scope == "mmdet":
        assert cfg.val_evaluator.ann_file == "somewhere/annotations/instances_val2017.json"


@every_config
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


def train_a_step_and_predict(cfg):
    if cfg.default_scope == "mmpretrain":
        cfg.model.data_preprocessor = cfg.data_preprocessor
    # synchronised normalisation is for several processes; the Runner reverts it likewise
    for settings in dicts(cfg.model):
        if settings.get("type") == "SyncBN":
            settings.type = "BN"
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    # the first transform of a training wants its sampler
    cfg.train_dataloader.dataset.pipeline.pop(0)
    train_set, val_set = (
        DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    batch = pseudo_collate([train_set[0], train_set[1]])
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.backbone.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)

    model.eval()
    for i in (0, 1):
        (prediction,) = model.test_step(pseudo_collate([val_set[i]]))
        if cfg.default_scope == "mmseg":
            assert prediction.pred_sem_seg.data.shape[1:] == prediction.ori_shape
        elif cfg.default_scope == "mmdet":
            assert torch.isfinite(prediction.pred_instances.bboxes).all()
        else:
            torch.testing.assert_close(prediction.pred_score.sum(), torch.tensor(1.0))

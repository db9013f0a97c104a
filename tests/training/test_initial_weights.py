"""Laws of `--pretrained`, the one switch for published weights, and of `--fresh-head`."""

from hashlib import sha256

import pytest
import torch
from helpers import golden_files, published_weights
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from published_models import CONFIGS
from tiers import one_of_each
from tool_runs import run_warm

from hybrid_backbones.benchmark.zoo import find_configs
from hybrid_backbones.checkpoints import PUBLISHED, read_state_dict
from hybrid_backbones.mini.preset import apply_mini, dicts
from hybrid_backbones.training.cfg_options import apply_cfg_options
from hybrid_backbones.training.initial_weights import choose_weights

# backbones of which ImageNet weights are published
WITH_WEIGHTS = ("uniformer", "biformer", "swiftformer", "acmix_swin_t")
# those whose detectors and segmentors start from others
DENSE = [path for path in find_configs(CONFIGS) if not path.stem.startswith("imagenet_")]


def published(cfg):
    """Return the names of the published weights of a config."""
    settings = [s.get("init_cfg") or {} for s in dicts(cfg.model)]
    return [s.checkpoint for s in settings if s.get("type") == "Published"]


@pytest.mark.parametrize("path", one_of_each(DENSE))
def test_configs_published_from_imagenet_weights_name_those_of_their_backbone(path):
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone.get("backbone", cfg.model.backbone)
    if not any(name in path.stem for name in WITH_WEIGHTS):
        assert published(cfg) == []
        return
    (name,) = published(cfg)
    weights = Config.fromfile(CONFIGS / f"{PUBLISHED[name].config}.py").model.backbone
    assert (weights.type, weights.arch) == (backbone.type, backbone.arch)
    assert not PUBLISHED[name].options.get("model.backbone.arch")


@pytest.mark.parametrize("name", ["maskrcnn_uniformer_s", "locformer_uniformer_s"])
def test_weights_are_used_only_where_they_are_asked_for(name):
    path = CONFIGS / f"{name}.py"
    cfg = Config.fromfile(path)
    line = choose_weights(cfg, {}, pretrained=False)
    assert line.startswith("training from scratch; published from uniformer_small_in1k, as with")
    assert published(cfg) == []
    cfg = Config.fromfile(path)
    assert choose_weights(cfg, {}, pretrained=True) == "training from uniformer_small_in1k"
    assert published(cfg) == ["uniformer_small_in1k"]


def test_weights_of_the_command_line_are_kept():
    cfg = Config.fromfile(CONFIGS / "maskrcnn_uniformer_s.py")
    for chosen in ("mine.pth", "uniformer_small_in1k"):
        cfg.model.backbone.init_cfg.checkpoint = chosen
        options = {"model.backbone.init_cfg.checkpoint": chosen}
        choose_weights(cfg, options, pretrained=False)
        assert published(cfg) == [chosen]


def test_a_config_without_published_weights_has_none_to_start_from():
    cfg = Config.fromfile(CONFIGS / "maskrcnn_acmix_r50.py")
    assert choose_weights(cfg, {}, pretrained=False) is None
    with pytest.raises(ValueError, match=r"names no published weights.*init_cfg\.type=Published"):
        choose_weights(cfg, {}, pretrained=True)


@pytest.mark.parametrize(
    "name", ["maskrcnn_uniformer_s", "upernet_biformer_b", "fpn_swiftformer_l3"]
)
def test_a_mini_run_needs_no_weights(name, mini_root):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    apply_mini(cfg, mini_root)
    assert published(cfg) == []
    assert choose_weights(cfg, {}, pretrained=False) is None


def test_a_mini_run_takes_weights_of_the_command_line(mini_root):
    cfg = Config.fromfile(CONFIGS / "maskrcnn_uniformer_s.py")
    apply_mini(cfg, mini_root)
    init_cfg = dict(type="Published", checkpoint="mine.pth")
    options = {f"model.backbone.init_cfg.{key}": value for key, value in init_cfg.items()}
    apply_cfg_options(cfg, options)
    assert cfg.model.backbone.init_cfg == init_cfg


# a training of seconds
SHORT = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "val_dataloader.dataset.indices=1"]


def train_mini(tmp_path, *flags, options=()):
    command = ("tools/train.py", "configs/fpn_uniformer_xxs.py", "--mini", "--work-dir", tmp_path)
    return run_warm(*command, *flags, "--cfg-options", *SHORT, *options)


def train_on_ade(mini_root, work_dir, *flags, **environment):
    """Train without `--mini`, which has no weights: the mini set stands for ADE20K."""
    root = f"train_dataloader.dataset.data_root={mini_root}/ade"
    options = [root, root.replace("train", "val"), "train_dataloader.dataset.img_suffix=.png"]
    options += ["val_dataloader.dataset.img_suffix=.png", "train_dataloader.batch_size=2"]
    options += ["train_dataloader.dataset.pipeline.4.crop_size=(96,96)"]
    options += ["model.data_preprocessor.size=(96,96)"]
    options += ["default_hooks.checkpoint.interval=2", "optim_wrapper.optimizer.lr=0.0"]
    for loader in ("train_dataloader", "val_dataloader"):
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
    command = ("tools/train.py", "configs/fpn_uniformer_xxs.py", "--work-dir", work_dir, *flags)
    code, _, err = run_warm(*command, "--cfg-options", *SHORT, *options, **environment)
    assert code == 0, err
    (log,) = work_dir.glob("*/*.log")
    return log.read_text(), read_state_dict(work_dir / "iter_2.pth")


@pytest.mark.slow
def test_a_training_starts_from_the_published_weights_or_from_scratch(tmp_path, mini_root):
    """The cache has a stand-in where the download of the first address would be."""
    ((_, golden),) = golden_files("uniformer_xxs.json")
    weights = published_weights(golden)
    (address,) = PUBLISHED["uniformer_xxs_224_in1k"].addresses
    folder = tmp_path / "torch/hub/checkpoints" / sha256(address.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    torch.save(dict(model=weights), folder / f"{address.split('/')[-2]}.pth")
    log, _ = train_on_ade(mini_root, tmp_path / "scratch")
    assert "training from scratch; published from uniformer_xxs_224_in1k" in log
    home = str(tmp_path / "torch")
    log, trained = train_on_ade(mini_root, tmp_path / "tuned", "--pretrained", TORCH_HOME=home)
    assert "training from uniformer_xxs_224_in1k" in log
    expected = weights["blocks3.0.attn.qkv.weight"]
    assert torch.equal(trained["backbone.stages.2.0.attn.qkv.weight"], expected)


@pytest.mark.slow
def test_a_model_of_other_classes_is_fine_tuned_with_a_fresh_head(tmp_path, mini_root):
    cfg = Config.fromfile(CONFIGS / "fpn_uniformer_xxs.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        weights = MODELS.build(cfg.model).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / "ade.pth")
    load_from = [f"load_from={tmp_path}/ade.pth"]
    code, _, err = train_mini(tmp_path / "refused", options=load_from)
    assert code == 1
    assert "--fresh-head" in err.splitlines()[-1]
    code, out, err = train_mini(tmp_path / "tuned", "--fresh-head", options=load_from)
    assert code == 0, err
    assert "2 left fresh (decode_head.conv_seg.bias, decode_head.conv_seg.weight)" in out
    assert (tmp_path / "tuned/iter_2.pth").is_file()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--pretrained"], "--mini never does: leave one of them out"),
        (["--fresh-head"], "--fresh-head is for a training from load_from"),
    ],
    ids=str,
)
def test_flags_that_exclude_each_other_end_in_one_line(tmp_path, flags, says):
    code, _, err = train_mini(tmp_path, *flags)
    assert code == 1
    assert says in err.splitlines()[-1]
    assert not list(tmp_path.glob("*.pth"))

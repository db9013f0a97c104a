"""Laws of the mini preset for configs that lack what it changes."""

import pytest
from mmengine.config import Config

from hybrid_backbones.mini import preset
from hybrid_backbones.mini.preset import apply_mini

CONFIGS = {
    "mmdet": "fasterrcnn_r50",
    "mmseg": "upernet_r50",
    "mmpretrain": "imagenet_r50",
}


@pytest.fixture
def read(repository, monkeypatch):
    monkeypatch.setattr(preset, "draw_mini", lambda root: root)
    return lambda name: Config.fromfile(repository / "configs" / f"{name}.py")


@pytest.mark.parametrize("name", CONFIGS.values())
def test_a_config_without_hooks_runs_with_those_of_the_runner(read, tmp_path, name):
    cfg = read(name)
    cfg.pop("default_hooks")
    apply_mini(cfg, tmp_path)
    assert cfg.get("default_hooks") is None
    assert cfg.train_cfg


@pytest.mark.parametrize("name", CONFIGS.values())
def test_a_hook_that_is_removed_stays_so(read, tmp_path, name):
    cfg = read(name)
    cfg.default_hooks.logger = None
    apply_mini(cfg, tmp_path)
    assert cfg.default_hooks.logger is None


@pytest.mark.parametrize(
    ("scope", "key"),
    [("mmdet", "val_evaluator"), ("mmseg", "val_evaluator"), ("mmpretrain", "data_preprocessor")],
)
def test_a_key_that_a_preset_changes_is_named_where_it_is_missing(read, tmp_path, scope, key):
    cfg = read(CONFIGS[scope])
    cfg[key] = None
    with pytest.raises(ValueError, match=f"--mini needs the config to set {key}"):
        apply_mini(cfg, tmp_path)


@pytest.mark.parametrize("name", ["maskrcnn_r50", "locformer_swin_t"])
@pytest.mark.parametrize("wrap", [list, lambda x: dict(metrics=x)], ids=["list", "evaluator"])
def test_each_metric_of_several_reads_the_annotations_of_the_mini_set(read, tmp_path, name, wrap):
    cfg, one = read(name), read(name)
    apply_mini(one, tmp_path)
    assert one.val_evaluator.ann_file.startswith(str(tmp_path))
    save = dict(type="DumpDetResults", out_file_path="out.pkl")
    cfg.val_evaluator = wrap([save, cfg.val_evaluator])
    apply_mini(cfg, tmp_path)
    assert cfg.test_evaluator == cfg.val_evaluator == wrap([save, one.val_evaluator])
    assert cfg.train_dataloader == one.train_dataloader

"""Laws of the mini preset: configs that lack what it changes, and heads that it changes."""

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hybrid_backbones.mini import preset, queries
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.mini.settings import dicts

CONFIGS = {
    "mmdet": "fasterrcnn_r50",
    "mmseg": "upernet_r50",
    "mmpretrain": "imagenet_r50",
}


# a config of each head with queries
QUERIES = [
    *("dino_swiftformer_xs", "deformable_detr_swiftformer_xs"),
    *("mask2former_coco_swiftformer_xs", "mask2former_ade_swiftformer_xs"),
]


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


@pytest.mark.parametrize("name", QUERIES)
def test_of_a_model_with_queries_all_but_the_backbone_is_shrunk(read, tmp_path, name):
    cfg, given = read(name), read(name)
    apply_mini(cfg, tmp_path)
    given.model.backbone.pop("init_cfg")
    assert cfg.model.backbone == given.model.backbone
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        whole, small = (MODELS.build(one.model) for one in (given, cfg))
    for mine, theirs in zip(small.backbone.parameters(), whole.backbone.parameters(), strict=True):
        assert mine.shape == theirs.shape
    fixed = queries.WIDTHS if name.startswith("dino_") else ()
    limits = {key: limit for key, limit in queries.LIMITS.items() if key not in fixed}
    for part in dicts(cfg.model):
        assert all(part.get(key, limit) <= limit for key, limit in limits.items())
    # a quarter of the weights of each layer, unless widths stay, in at most half of the layers
    factor = 2 if fixed else 6
    assert factor * _size_after_backbone(small) < _size_after_backbone(whole)


@pytest.mark.parametrize("name", QUERIES)
def test_a_model_with_queries_learns_in_many_steps_at_deformable_detrs_rates(read, tmp_path, name):
    cfg = read(name)
    apply_mini(cfg, tmp_path)
    steps = cfg.param_scheduler[-1].end
    assert steps > 2 * 180
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.keys() == queries.SLOW.keys()


@pytest.mark.parametrize(
    ("name", "num_classes"), [("mask2former_coco_swiftformer_xs", 6), (QUERIES[-1], 7)]
)
def test_mask2former_weighs_the_classes_alike_and_no_object_as_it_did(
    read, tmp_path, name, num_classes
):
    cfg = read(name)
    apply_mini(cfg, tmp_path)
    head = cfg.model.get("panoptic_head") or cfg.model.decode_head
    assert head.loss_cls.class_weight == [1.0] * num_classes + [0.1]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    built = getattr(model, "panoptic_head", None) or model.decode_head
    assert built.cls_embed.out_features == num_classes + 1


def _size_after_backbone(model):
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith("backbone."))

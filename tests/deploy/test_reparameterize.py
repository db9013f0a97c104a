"""Merging a trained model: what is written computes the same, and nothing wrong is written."""

import json
import runpy
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from hybrid_backbones.backbones import XVolutionResNet
from hybrid_backbones.checkpoints import load_trained, read_checkpoint
from hybrid_backbones.deploy import reparameterize as reparameterization
from hybrid_backbones.deploy.reparameterize import merged_config, reparameterize, require_equal
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.ops.xvolution import MergedXVolution, XVolution

META = dict(epoch=3, dataset_meta=dict(classes=("a", "b")), cfg="of the training")


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Leave the scope as it was, and write below the test's own folder."""
    monkeypatch.chdir(tmp_path)
    with DefaultScope.overwrite_default_scope(None):
        yield


def classifier(repository, **backbone):
    cfg = Config.fromfile(repository / "configs/imagenet_xvolution_r34.py")
    cfg.model.backbone.update(depth=18, **backbone)
    cfg.model.head.num_classes = 10
    return cfg


def detector(repository, operator="XVolution"):
    """A stock detector with operators in the slot of deformable convolution."""
    cfg = Config.fromfile(repository / "configs/retinanet_r50.py")
    dcn = dict(type=operator, attention="shift", num_heads=2)
    cfg.model.backbone.update(dcn=dcn, stage_with_dcn=(False, False, True, False))
    return cfg


def segmentor(repository):
    cfg = Config.fromfile(repository / "configs/upernet_r50.py")
    cfg.model.backbone.update(
        dcn=dict(type="XVolution"), stage_with_dcn=(False, False, False, True)
    )
    return cfg


def save(cfg, path="epoch_3.pth"):
    """Save a checkpoint as a training does, with statistics of some images."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None
    model.backbone.train()
    with torch.no_grad():
        model.backbone(torch.randn(4, 3, 97, 131))
    torch.save(dict(state_dict=model.state_dict(), meta=META, optimizer=dict(state=1)), path)
    return model.eval()


def run(repository, tool, *arguments):
    """Run a tool as the command line does, in this process."""
    argv = sys.argv
    sys.argv = [tool, *map(str, arguments)]
    try:
        runpy.run_path(str(repository / "tools" / tool), run_name="__main__")
    finally:
        sys.argv = argv


@pytest.mark.parametrize("make", [classifier, detector, segmentor])
def test_the_written_files_build_and_load_a_model_that_computes_the_same(
    repository, make, tmp_path
):
    cfg = make(repository)
    model = save(cfg)
    assert reparameterize(cfg, "epoch_3.pth", tmp_path / "new/merged.pth").name == "merged.py"
    written = Config.fromfile("new/merged.py")
    merged = MODELS.build(written.model)
    load_trained(merged, "new/merged.pth")
    merged.eval()
    assert not any(isinstance(module, XVolution) for module in merged.modules())
    assert any(isinstance(module, MergedXVolution) for module in merged.modules())
    images = torch.randn(1, 3, 130, 67)
    with torch.no_grad():
        for ours, theirs in zip(merged.backbone(images), model.backbone(images), strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    # what is not an operator is bit for bit what it was
    own = model.state_dict()
    shared = [name for name in merged.state_dict() if name in own and "conv.weight" not in name]
    assert len(shared) > 50
    assert all(torch.equal(merged.state_dict()[name], own[name]) for name in shared)


def test_the_meta_data_stays_and_its_config_is_the_written_one(repository):
    cfg = classifier(repository)
    save(cfg)
    reparameterize(cfg, "epoch_3.pth", "merged.pth")
    content = read_checkpoint("merged.pth")
    assert content.keys() == {"meta", "state_dict"}
    assert content["meta"] == dict(META, cfg=merged_config(cfg).pretty_text)
    assert Config.fromstring(content["meta"]["cfg"], ".py").model.backbone.merged


def test_the_merged_config_differs_only_in_what_is_merged(repository):
    cfg = classifier(repository, init_cfg=dict(type="Published", checkpoint="FILE.pth"))
    merged = merged_config(cfg)
    assert merged.model.backbone == dict(cfg.model.backbone, merged=True, init_cfg=None)
    assert cfg.model.backbone.init_cfg.type == "Published"
    assert merged.train_dataloader == cfg.train_dataloader
    for operator in ("mmdet.XVolution", XVolution):
        dcn = merged_config(detector(repository, operator)).model.backbone.dcn
        assert dcn == dict(type="MergedXVolution", num_heads=2)
    cfg = classifier(repository, type=XVolutionResNet)
    assert merged_config(cfg).model.backbone == dict(cfg.model.backbone, merged=True, init_cfg=None)


def metric(work_dir):
    (path,) = work_dir.glob("*/*_*.json")
    return json.loads(path.read_text())["accuracy/top1"]


@pytest.mark.slow
def test_the_tools_merge_and_test_a_mini_checkpoint(repository, tmp_path, capsys):
    config = repository / "configs/imagenet_xvolution_r34.py"
    options = ("--mini", "--cfg-options", "model.backbone.depth=18")
    cfg = classifier(repository)
    cfg.model.head.num_classes = 6
    save(cfg)
    run(repository, "reparameterize.py", config, "epoch_3.pth", "merged.pth", *options)
    assert "saved to merged.pth; its config is merged.py" in capsys.readouterr().out
    run(repository, "test.py", config, "epoch_3.pth", "--work-dir", "one", *options)
    run(repository, "test.py", "merged.py", "merged.pth", "--work-dir", "other")
    assert metric(tmp_path / "one") == metric(tmp_path / "other")


def test_a_mistake_on_the_command_line_ends_in_one_line(repository):
    config = repository / "configs/imagenet_xvolution_r34.py"
    with pytest.raises(SystemExit) as error:
        run(repository, "reparameterize.py", config, "nowhere.pth", "merged.pth")
    assert error.value.code == "error: no checkpoint at 'nowhere.pth': check the path"


@pytest.mark.parametrize(("out", "existing"), [("a.pth", "a.pth"), ("a.pth", "a.py")])
def test_nothing_is_overwritten(repository, tmp_path, out, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ValueError, match=f"{existing} exists and is not overwritten"):
        reparameterize(classifier(repository), "epoch_3.pth", out)
    assert (tmp_path / existing).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [existing]


def test_the_checkpoint_must_be_called_one(repository):
    with pytest.raises(ValueError, match=r"must end with \.pth, got merged\.py"):
        reparameterize(classifier(repository), "epoch_3.pth", "merged.py")


def assert_nothing_is_written(cfg, message):
    with pytest.raises(ValueError, match=message):
        reparameterize(cfg, "epoch_3.pth", "merged.pth")
    with pytest.raises(ValueError, match="no checkpoint"):
        read_checkpoint("merged.pth")


def test_a_checkpoint_of_another_model_is_refused(repository):
    save(classifier(repository))
    assert_nothing_is_written(classifier(repository, hybrid_stages=(True,) * 4), "missing.*layer1")


def test_a_merged_checkpoint_is_not_merged_again(repository):
    cfg = classifier(repository)
    save(cfg)
    reparameterize(cfg, "epoch_3.pth", "once.pth")
    with pytest.raises(ValueError, match="no X-volution to merge"):
        reparameterize(Config.fromfile("once.py"), "once.pth", "twice.pth")


def test_a_model_that_takes_more_than_images_has_nothing_to_merge(repository, mini_root):
    cfg = Config.fromfile(repository / "configs/locformer_swin_t.py")
    apply_mini(cfg, mini_root)
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), "epoch_3.pth")
    assert_nothing_is_written(cfg, "no X-volution to merge")


def test_what_cannot_be_written_is_said_before_the_work(repository, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot write file/merged\.pth"):
        reparameterize(classifier(repository), "nowhere.pth", "file/merged.pth")


def test_global_attention_is_refused(repository):
    cfg = classifier(repository, attention="global")
    save(cfg)
    assert_nothing_is_written(cfg, "cannot be merged")


def test_a_merge_that_changes_the_outputs_is_refused(repository, monkeypatch):
    cfg = classifier(repository)
    save(cfg)
    merge = XVolution.merge

    def merge_badly(module):
        merged = merge(module)
        merged.conv.bias.data += 0.1
        return merged

    monkeypatch.setattr(XVolution, "merge", merge_badly)
    assert_nothing_is_written(cfg, "is not equivalent: map 0 differs by")


def test_a_written_config_that_builds_another_network_is_refused(repository, monkeypatch):
    cfg = classifier(repository)
    save(cfg)

    def forget_the_heads(cfg):
        cfg = merged_config(cfg)
        cfg.model.backbone.num_heads = 2
        return cfg

    monkeypatch.setattr(reparameterization, "merged_config", forget_the_heads)
    assert_nothing_is_written(cfg, "is not equivalent: map 0 differs by")


def test_infinite_outputs_are_not_equal():
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    require_equal((good,), (good,))
    with pytest.raises(ValueError, match="map 0 differs by nan"):
        require_equal((bad,), (good,))
    with pytest.raises(ValueError, match=r"map 1 .* infinite"):
        require_equal((good, bad), (good, bad))

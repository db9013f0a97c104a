"""Laws of loading published checkpoints: what is loaded, from where, into which models."""

from pathlib import Path

import pytest
import torch
from checkpoint_cases import (
    DEPTH,
    Detector,
    assert_equal,
    build_backbone,
    build_classifier,
    features,
    snapshot,
    under,
)
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from torch import nn

from hybrid_backbones.backbones import ACmixResNet
from hybrid_backbones.checkpoints import (
    load_published,
    load_trained,
    read_state_dict,
    require_resumable,
)
from hybrid_backbones.training.saving import LoadFromHook


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda weights: weights, id="bare"),
        pytest.param(lambda weights: dict(state_dict=weights, epoch=90), id="state_dict"),
        pytest.param(lambda weights: dict(model=weights, optimizer={}), id="model"),
        pytest.param(lambda weights: under("module.", weights), id="module."),
        pytest.param(lambda weights: dict(model=under("module.", weights)), id="model, module."),
        pytest.param(lambda weights: under("backbone.", features(weights)), id="backbone."),
    ],
)
def test_any_wrapping_of_the_weights_is_understood(weights, wrap):
    model = build_backbone()
    load_published(model, wrap(weights))
    assert_equal(model.state_dict(), features(weights))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_gives_what_its_content_gives(saved, weights, kind):
    model = build_backbone()
    load_published(model, kind(saved))
    assert_equal(model.state_dict(), features(weights))


def test_reading_gives_the_published_names(saved, weights):
    assert_equal(read_state_dict(saved), weights)


def test_the_report_names_every_entry(weights):
    model = build_backbone()
    report = load_published(model, weights)
    assert report.loaded == sorted(model.state_dict())
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]
    assert report.fresh == []
    text = str(report)
    assert text == f"{len(features(weights))} entries loaded, 2 dropped (fc.bias, fc.weight)"


def test_a_classifier_takes_the_published_classifier_too(weights):
    model = build_classifier()
    report = load_published(model, weights)
    assert report.loaded == sorted(model.state_dict())
    assert report.dropped == []
    expected = under("backbone.", features(weights))
    expected |= under("head.", {name: weights[name] for name in ("fc.weight", "fc.bias")})
    assert_equal(model.state_dict(), expected)


def test_checkpoints_of_our_own_classifiers_load():
    trained = build_classifier(5)
    model, backbone = build_classifier(5), build_backbone()
    load_published(model, dict(state_dict=trained.state_dict()))
    assert_equal(model.state_dict(), trained.state_dict())
    report = load_published(backbone, dict(state_dict=trained.state_dict()))
    assert_equal(backbone.state_dict(), trained.backbone.state_dict())
    assert sorted(report.dropped) == ["head.fc.bias", "head.fc.weight"]


def test_checkpoints_that_a_runner_saved_load(tmp_path):
    trained = build_backbone()
    hub = MessageHub.get_instance("test_checkpoints")
    hub.update_scalar("train/loss", 1.0)
    # what mmengine's Runner.save_checkpoint writes beside the weights
    content = dict(
        meta=dict(epoch=1), state_dict=trained.state_dict(), message_hub=hub.state_dict()
    )
    torch.save(content, tmp_path / "epoch_1.pth")
    model = build_backbone()
    load_published(model, tmp_path / "epoch_1.pth")
    assert_equal(model.state_dict(), trained.state_dict())


def test_a_detector_takes_the_backbone_and_drops_the_classifier(weights):
    model = Detector()
    before = snapshot(model)
    report = load_published(model, weights)
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]
    assert_equal(model.state_dict(), before | under("backbone.", features(weights)))


def test_a_classifier_without_a_head_drops_the_classifier(weights):
    model = build_classifier(head=None)
    report = load_published(model, weights)
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]
    assert_equal(model.backbone.state_dict(), features(weights))


def test_half_precision_checkpoints_load_into_the_models_dtype(weights):
    halved = {name: x.half() if x.is_floating_point() else x for name, x in weights.items()}
    model = build_backbone()
    load_published(model, halved)
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, halved["conv1.weight"].float())


def test_loading_copies_the_weights(weights):
    model = build_backbone()
    before = weights["conv1.weight"].clone()
    load_published(model, weights)
    nn.init.zeros_(model.conv1.weight)
    assert torch.equal(weights["conv1.weight"], before)


def test_entries_that_start_fresh_are_named_and_kept(weights, monkeypatch):
    names = ACmixResNet.published._replace(fresh=(r"\.rate[12]$",))
    monkeypatch.setattr(ACmixResNet, "published", names)
    model = build_backbone()
    rates = {name: x.clone() for name, x in model.state_dict().items() if ".rate" in name}
    assert rates
    report = load_published(model, {k: x for k, x in weights.items() if k not in rates})
    assert report.fresh == sorted(rates)
    assert f"{len(rates)} left fresh (layer1.0.conv2.rate1" in str(report)
    assert_equal(model.state_dict(), features(weights) | rates)


def test_init_cfg_loads_a_backbone(saved, weights):
    settings = dict(type="ACmixResNet", depth=DEPTH)
    model = MODELS.build(settings | dict(init_cfg=dict(type="Published", checkpoint=str(saved))))
    model.init_weights()
    assert_equal(model.state_dict(), features(weights))


def test_init_cfg_loads_the_backbone_inside_a_model(saved, weights):
    init_cfg = dict(type="Published", checkpoint=str(saved))
    settings = dict(type="ACmixResNet", depth=DEPTH, init_cfg=init_cfg)
    model = ImageClassifier(backbone=settings)
    model.init_weights()
    assert_equal(model.backbone.state_dict(), features(weights))


def test_init_cfg_of_a_classifier_loads_its_head_too(saved, weights):
    model = build_classifier(init_cfg=dict(type="Published", checkpoint=str(saved)))
    model.init_weights()
    assert torch.equal(model.backbone.conv1.weight, weights["conv1.weight"])
    assert torch.equal(model.head.fc.weight, weights["fc.weight"])


def test_init_cfg_raises_where_the_checkpoint_does_not_fit(saved):
    model = ACmixResNet(38, init_cfg=dict(type="Published", checkpoint=str(saved)))
    with pytest.raises(ValueError, match=r"missing.*layer1\.1\.conv1\.weight"):
        model.init_weights()


class Host:
    """What of a runner a hook sees when the host has read `load_from`."""

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize("wrap", [dict, lambda x: dict(model=x), lambda x: dict(state_dict=x)])
def test_load_from_takes_what_a_test_takes_and_the_host_then_loads_all(weights, wrap):
    model, expected = build_classifier(), build_classifier()
    load_trained(expected, weights)
    content = wrap(weights)
    LoadFromHook("published.pth").after_load_checkpoint(Host(model), content)
    assert_equal(content["state_dict"], expected.state_dict())


def test_load_from_refuses_a_head_of_other_classes(weights):
    says = r"load_from=published\.pth.*init_cfg=dict\(type='Pretrained'.*head\.fc\.bias: \(1000,\)"
    with pytest.raises(ValueError, match=says):
        LoadFromHook("published.pth").after_load_checkpoint(Host(build_classifier(10)), weights)


def test_a_config_in_the_meta_data_is_not_resumed_since_the_host_would_run_it(tmp_path):
    model, path = build_backbone(), tmp_path / "epoch_1.pth"
    content = dict(meta=dict(cfg="print()"), state_dict=model.state_dict())
    require_resumable(model, content)
    content["meta"]["config"] = "print()"
    torch.save(content, path)
    for checkpoint in (content, path):
        with pytest.raises(ValueError, match=r"program as meta\.config"):
            require_resumable(model, checkpoint)

"""Laws of loading published checkpoints: all fits, or nothing is loaded and the error says why."""

from pathlib import Path

import pytest
import torch
import torchvision
from helpers import golden_files, published_weights
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

DEPTH = 26


@pytest.fixture(scope="module")
def weights():
    """A checkpoint under published names, the classifier's included; treat it as read-only."""
    ((_, golden),) = golden_files(f"acmix_resnet{DEPTH}.json")
    return published_weights(golden)


@pytest.fixture(scope="module")
def saved(weights, tmp_path_factory):
    """The same checkpoint as the published training script writes it."""
    path = tmp_path_factory.mktemp("checkpoints") / "model_best.pth.tar"
    content = {f"module.{name}": value for name, value in weights.items()}
    torch.save(dict(epoch=90, best_acc1=77.8, state_dict=content), path)
    return path


def build_backbone(**kwargs):
    return ACmixResNet(DEPTH, **kwargs)


def build_classifier(head_channels=1000, **kwargs):
    head = dict(type="LinearClsHead", num_classes=head_channels, in_channels=2048)
    return ImageClassifier(
        backbone=dict(type="ACmixResNet", depth=DEPTH),
        neck=dict(type="GlobalAveragePooling"),
        **{"head": head, **kwargs},
    )


class Detector(nn.Module):
    """A model around a backbone, with parts that no published checkpoint has."""

    def __init__(self):
        super().__init__()
        self.backbone = build_backbone()
        self.neck = nn.Conv2d(2048, 8, 1)
        self.bbox_head = nn.Linear(8, 4)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(state_dict, expected):
    torch.testing.assert_close(dict(state_dict), dict(expected), rtol=0, atol=0)


def features(weights):
    """What of a published checkpoint belongs to the backbone."""
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


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
    monkeypatch.setattr(ACmixResNet, "fresh_entries", (r"\.rate[12]$",))
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda weights: weights | {"layer9.weight": torch.zeros(1)},
            r"1 unexpected: (backbone\.)?layer9\.weight",
            id="extra",
        ),
        pytest.param(
            lambda weights: {k: x for k, x in weights.items() if k != "layer2.1.conv2.rate1"},
            r"1 missing: (backbone\.)?layer2\.1\.conv2\.rate1",
            id="missing",
        ),
        pytest.param(
            lambda weights: weights | {"layer4.0.bn2.bias": torch.zeros(7)},
            r"1 of another shape: (backbone\.)?layer4\.0\.bn2\.bias: \(7,\) instead of \(512,\)",
            id="misshapen",
        ),
        pytest.param(
            lambda weights: {k.replace("conv_p", "conv_q"): x for k, x in weights.items()},
            r"missing: .*layer1\.0\.conv2\.conv_p\.bias.*unexpected: .*layer1\.0\.conv2\.conv_q\.b",
            id="renamed",
        ),
        pytest.param(
            lambda weights: weights | {"conv1.weight": [0.0]},
            r"conv1\.weight",
            id="no tensor",
        ),
        pytest.param(
            lambda weights: weights | {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)},
            r"conv1\.weight",
            id="two of one name",
        ),
    ],
)
@pytest.mark.parametrize("build", [build_backbone, build_classifier, Detector])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(weights, build, change, message):
    model = build()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        load_published(model, change(weights))
    assert_equal(model.state_dict(), before)


@pytest.mark.parametrize(
    ("num_classes", "names", "message"),
    [
        (1000, ["fc.weight"], r"1 missing: head\.fc\.weight"),
        (1000, ["fc.weight", "fc.bias"], r"2 missing: head\.fc\.bias, head\.fc\.weight"),
        (10, [], r"of another shape: head\.fc\.bias: \(1000,\) instead of \(10,\)"),
    ],
    ids=["half a classifier", "no classifier", "other classes"],
)
def test_a_classifier_needs_its_own_classifier(weights, num_classes, names, message):
    model = build_classifier(num_classes)
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        load_published(model, {name: x for name, x in weights.items() if name not in names})
    assert_equal(model.state_dict(), before)


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


@pytest.mark.parametrize("depth", [38, 50])
def test_a_checkpoint_of_another_depth_is_refused(weights, depth):
    with pytest.raises(ValueError, match=r"missing: .*layer1\.1\.bn1\.bias.* and \d+ more"):
        load_published(ACmixResNet(depth), weights)


def test_a_checkpoint_of_a_plain_resnet_is_refused():
    with pytest.raises(ValueError, match=r"unexpected: .*layer1\.0\.conv2\.weight"):
        load_published(build_backbone(), torchvision.models.resnet50().state_dict())


def test_a_foreign_network_is_refused(weights):
    with pytest.raises(ValueError, match=r"hybrid_backbones.*ResNet"):
        load_published(torchvision.models.resnet18(), weights)


@pytest.mark.parametrize(
    "content",
    [{}, dict(epoch=3), dict(state_dict={}), dict(model=dict(epoch=3)), dict(ema=dict(a=1))],
    ids=str,
)
def test_a_dict_without_weights_is_refused(content):
    with pytest.raises(ValueError, match="no weights in the checkpoint"):
        load_published(build_backbone(), content)

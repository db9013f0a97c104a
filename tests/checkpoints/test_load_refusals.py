"""Laws of checkpoints that do not fit: the error says why, and nothing is loaded."""

import pytest
import torch
import torchvision
from checkpoint_cases import Detector, assert_equal, build_backbone, build_classifier, snapshot

from hybrid_backbones.backbones import ACmixResNet, SwiftFormer
from hybrid_backbones.checkpoints import load_published, load_trained


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


@pytest.mark.parametrize("load", [load_published, load_trained])
def test_a_model_without_memory_is_refused(load):
    weights = SwiftFormer("xs").state_dict()
    with torch.device("meta"):
        model = SwiftFormer("xs")
    with pytest.raises(ValueError, match=r"SwiftFormer is on the meta device.*to_empty"):
        load(model, weights)


def test_weights_are_loaded_into_a_compiled_model():
    weights, model = SwiftFormer("xs").state_dict(), SwiftFormer("xs")
    load_published(torch.compile(model), weights)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)

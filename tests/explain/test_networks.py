"""Laws of examining whole networks: something to see in each, nothing changed, clear mistakes."""

import copy

import pytest
import torch
from backbone_cases import ALL_KINDS, build, each_kind, make_images
from torch import nn

from hybrid_backbones.backbones import SwiftFormer
from hybrid_backbones.explain import attending_modules, attention, record
from hybrid_backbones.ops import ACmix

NAMES = {
    "ACmixResNet": {"rates"},
    "ACmixSwin": {"rates"},
    "BiFormer": {"routes"},
    "MixFormer": {"gates", "channel_gates", "spatial_gates"},
    "SwiftFormer": {"scores"},
    "UniFormer": {"kernel"},
    "UniFormerLight": {"kernel", "kept", "scores"},
    "XVolutionResNet": {"kernel"},
}


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_network_has_something_to_see_at_any_size(network, settings, dtype):
    model = build(network, settings).to(dtype)
    images = make_images(2, 65, 49, dtype=dtype)
    found = record(model, images)
    names = {name for tensors in found.values() for name in tensors}
    expected = set() if settings.get("attention") == "global" else NAMES[network.__name__]
    assert names == expected
    assert found.keys() <= dict(model.named_modules()).keys()
    paths = list(attending_modules(model))
    for path in (paths[0], paths[-1]):
        weights = attention(model, images, path, (0, 0))
        assert weights.dtype == dtype
        assert len(weights) == 2
        assert weights.isfinite().all()


@each_kind
def test_examining_changes_nothing(network, settings):
    model = build(network, settings, frozen_stages=1).train()
    # its user trains a frozen part all the same, freezes another and keeps one in evaluation mode
    for parameter in model.stages[0].parameters():
        parameter.requires_grad_(True)
    model.stages[0].eval()
    for parameter in model.stages[1].parameters():
        parameter.requires_grad_(False)
    images = make_images(2)
    expected = [x.detach() for x in copy.deepcopy(model).eval()(images)]
    state = {name: x.clone() for name, x in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trained = [p.requires_grad for p in model.parameters()]
    seed = torch.get_rng_state()
    found = record(model, images)
    attention(model, images, next(iter(attending_modules(model))), (1, 1))
    for tensors in found.values():
        for tensor in tensors.values():
            assert not tensor.requires_grad
            tensor.zero_()
    assert torch.equal(torch.get_rng_state(), seed)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trained
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert all(map(torch.equal, model.eval()(images), expected))


def test_hooks_and_modes_are_undone_after_an_error():
    model = build(*ALL_KINDS[0].values).train()
    with pytest.raises(ValueError, match="position"):
        attention(model, make_images(), "layer1.0.conv2", (999, 0))
    with pytest.raises(ValueError, match="expected images"):
        record(model, torch.randn(1, 5, 64, 64))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.slow
def test_a_compiled_network_is_examined_too():
    model = build(SwiftFormer, dict(ALL_KINDS[4].values[1])).eval()
    images = make_images()
    expected = record(model, images)
    model.compile(backend="eager")
    model(images)
    found = record(model, images)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[p]["scores"], expected[p]["scores"]) for p in found)


class Detector(nn.Module):
    """A model around a backbone, which takes more than images."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = ACmix(4, 4)

    def forward(self, inputs, samples):
        raise NotImplementedError


def test_of_a_detector_the_backbone_runs_under_its_path():
    backbone = build(*ALL_KINDS[2].values)
    model, images = Detector(backbone), make_images()
    found, alone = record(model, images), record(backbone, images)
    assert list(found) == [f"backbone.{path}" for path in alone]
    weights = attention(model, images, "backbone.stages.0.0.attn", (2, 3))
    assert torch.equal(weights, attention(backbone, images, "stages.0.0.attn", (2, 3)))
    with pytest.raises(ValueError, match="does not run its module 'neck'"):
        attention(model, images, "neck", (0, 0))


def test_mistakes_are_one_line_that_names_what_there_is():
    model, images = build(*ALL_KINDS[0].values), make_images()
    cases = [
        ((images, "layer9", (0, 0)), "no attention at module='layer9'; there is: 'layer1.0.conv2'"),
        ((images, "layer1.0.conv2", (17, 0)), "lie in the 17×13 positions of 'layer1.0.conv2'"),
        ((images, "layer1.0.conv2", (0, -1)), r"from 0, got \(0, -1\)"),
        ((images, "layer1.0.conv2", (0.5, 1)), r"two integers \(y, x\), got \(0.5, 1\)"),
        ((images, "layer1.0.conv2", 3), r"two integers \(y, x\), got 3"),
        ((images[0], "layer1.0.conv2", (0, 0)), r"\(B, 3, H, W\), got torch.float32 \(3, 65, 49\)"),
        (((images, 1), "layer1.0.conv2", (0, 0)), "takes other arguments"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            attention(model, *arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is: none in this model"):
        attention(nn.Conv2d(3, 3, 1), images, "stem", (0, 0))

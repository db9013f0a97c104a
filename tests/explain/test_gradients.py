"""Laws of receptive fields, class activations and colours of features."""

import pytest
import torch
from backbone_cases import ALL_KINDS, build, each_kind, make_images
from torch import nn

from hybrid_backbones.explain import (
    class_activation,
    principal_colours,
    receptive_field,
    stage_features,
    stage_paths,
)
from hybrid_backbones.ops import ACmix, GlobalRelationAggregator, XVolution


@pytest.mark.parametrize(
    ("operator", "reach"),
    [
        pytest.param(lambda: ACmix(4, 4, attn_kernel_size=5), 2, id="acmix"),
        pytest.param(lambda: ACmix(4, 4, attn_kernel_size=7, dilation=2, padding=2), 6, id="dil"),
        pytest.param(lambda: XVolution(4, 4), 1, id="x-volution"),
        pytest.param(lambda: GlobalRelationAggregator(4, 2), 99, id="global"),
    ],
)
def test_the_field_ends_where_the_operator_does(operator, reach):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), operator()).double()
    images = torch.randn(2, 3, 21, 17, dtype=torch.float64)
    field = receptive_field(model, images, "1", (9, 4))
    rows, columns = torch.arange(21)[:, None] - 9, torch.arange(17) - 4
    inside = (rows.abs() <= reach) & (columns.abs() <= reach)
    assert (field[:, ~inside] == 0).all()
    # the ends of a dilated field are seen, too
    ends = (field[0] > 0).nonzero() - torch.tensor([9, 4])
    assert ends.abs().amax(0).tolist() == [min(reach, 11), min(reach, 12)]


def test_the_field_of_convolutions_is_their_kernel():
    conv = nn.Conv2d(3, 2, 3, padding=1)
    field = receptive_field(nn.Sequential(conv), torch.randn(1, 3, 6, 6), "0", (2, 3))
    kernel = conv.weight.sum(0).abs().sum(0)
    assert torch.allclose(field[0, 1:4, 2:5], kernel)
    assert field.count_nonzero() == 9


@each_kind
def test_fields_and_features_of_every_network(network, settings):
    model = build(network, settings).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    images = make_images(2)
    paths = stage_paths(model)
    assert len(paths) == 4
    features = stage_features(model, images)
    assert list(features) == paths
    field = receptive_field(model, images, paths[1], (1, 1))
    assert field.shape == (2, 65, 49)
    assert (field >= 0).all()
    assert field.amax((1, 2)).min() > 0
    for maps in features.values():
        colours = principal_colours(maps)
        assert colours.shape == (2, 3, *maps.shape[2:])
        assert ((colours >= 0) & (colours <= 1)).all()
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


class Classifier(nn.Module):
    """Average pooling and a linear layer after a backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.out_channels[-1], 5)

    def forward(self, images):
        return self.fc(self.backbone(images)[-1].mean((2, 3)))


@pytest.mark.parametrize("frozen", [False, True])
def test_after_average_pooling_it_is_class_activation_mapping(frozen):
    settings = dict(ALL_KINDS[4].values[1], out_norm="none")
    model = Classifier(build(ALL_KINDS[4].values[0], settings)).eval()
    if frozen:
        for parameter in model.backbone.parameters():
            parameter.requires_grad_(False)
    images = make_images(1)
    found = class_activation(model, "backbone.stages.3", lambda: model(images)[0, 2])
    maps = model.backbone(images)[-1].detach()
    expected = torch.einsum("c,bchw->bhw", model.fc.weight[2], maps).clamp_min(0)
    assert torch.allclose(found, expected / maps[0, 0].numel(), rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in model.parameters())


def test_a_score_that_does_not_depend_on_the_map_is_refused():
    model = Classifier(build(*ALL_KINDS[4].values)).eval()
    images = make_images()
    other = torch.ones((), requires_grad=True)
    for score in (lambda: torch.ones(()), lambda: other * model(images).detach().sum()):
        with pytest.raises(ValueError, match="does not depend on the module"):
            class_activation(model, "backbone.stages.3", score)
    with pytest.raises(ValueError, match="no module 'stage' in Classifier"):
        receptive_field(model, images, "stage", (0, 0))
    with pytest.raises(ValueError, match="returns no map"):
        receptive_field(model.backbone, images, "", (0, 0))


def test_colours_are_the_principal_components():
    # three independent patterns of decreasing strength, hidden in many channels
    patterns = torch.linalg.qr(torch.randn(120, 3) - 0.5).Q
    patterns = torch.linalg.qr(patterns - patterns.mean(0)).Q
    mixing = torch.linalg.qr(torch.randn(16, 3)).Q * torch.tensor([9.0, 5.0, 2.0])
    maps = (patterns @ mixing.T + torch.randn(16)).T.view(1, 16, 10, 12)
    colours = principal_colours(maps)
    for i in range(3):
        tones = torch.stack([colours[0, i].flatten(), patterns[:, i]])
        # but for the clipped ends
        assert torch.corrcoef(tones)[0, 1].abs() > 0.98
    assert torch.allclose(principal_colours(maps * 3 + 1), colours, atol=1e-4)


def test_features_that_do_not_vary_are_grey():
    assert (principal_colours(torch.full((2, 5, 3, 4), 0.3)) == 0.5).all()
    # two channels have two components
    colours = principal_colours(torch.randn(1, 2, 6, 6))
    assert (colours[:, 2] == 0.5).all()
    assert colours[:, :2].std() > 0.1


def test_hooks_and_modes_are_undone_after_an_error():
    model = build(*ALL_KINDS[0].values).train()

    def fail():
        raise RuntimeError("a score that cannot be computed")

    with pytest.raises(RuntimeError, match="cannot be computed"):
        class_activation(model, "layer2", fail)
    with pytest.raises(ValueError, match="position"):
        receptive_field(model, make_images(), "layer2", (999, 0))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())

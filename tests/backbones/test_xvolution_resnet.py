"""What X-volution-ResNets are beyond the contract of all backbones: blocks, placement, merge."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn
from torchvision.models import resnet

from hybrid_backbones.backbones.acmix_resnet import ACmixResNet
from hybrid_backbones.backbones.xvolution_resnet import XVolutionResNet
from hybrid_backbones.checkpoints import load_published
from hybrid_backbones.ops.xvolution import MergedXVolution, XVolution

each_depth = pytest.mark.parametrize("depth", [18, 34, 50, 101])
PLACEMENTS = [
    pytest.param(dict(depth=18), id="18"),
    pytest.param(dict(depth=34), id="34", marks=pytest.mark.slow),
    pytest.param(dict(depth=50), id="50"),
    pytest.param(dict(depth=18, hybrid_stages=(True,) * 4, num_heads=4), id="18-everywhere"),
    pytest.param(
        dict(depth=50, hybrid_stages=(False, [0], [5], True)),
        id="50-blocks",
        marks=pytest.mark.slow,
    ),
]


def trained(settings, dtype=torch.float32):
    """Build a network with the statistics of some images, in which every branch counts."""
    torch.manual_seed(0)
    model = XVolutionResNet(**settings, zero_init_residual=False).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None  # the mean over all batches
    # each attention takes its input to the third power: with random weights, a dozen of them in a
    # row make huge numbers of images unlike those of the statistics
    for module in model.modules():
        if isinstance(module, XVolution):
            nn.init.uniform_(module.attention_bn.weight, 0.1, 0.3)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 65, 97, dtype=dtype))
    return model.eval()


def places(model, kind=XVolution):
    """List the convolutions of which X-volution took the place."""
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


@each_depth
def test_the_third_stage_has_the_operator_in_every_3x3_slot(depth):
    with torch.device("meta"):
        model = XVolutionResNet(depth)
    num_blocks = {18: 2, 34: 6, 50: 6, 101: 23}[depth]
    slots = ("conv1", "conv2") if depth < 50 else ("conv2",)
    assert places(model) == [f"layer3.{i}.{slot}" for i in range(num_blocks) for slot in slots]
    assert all(isinstance(block.bn2, nn.BatchNorm2d) for block in model.layer3)


@each_depth
def test_it_has_the_size_of_a_resnet_and_of_what_the_operators_add(depth):
    with torch.device("meta"):
        plain, model = getattr(resnet, f"resnet{depth}")(), XVolutionResNet(depth)
    expected = sum(p.numel() for p in plain.parameters()) - sum(
        p.numel() for p in plain.fc.parameters()
    )
    for name in places(model):
        conv = plain.get_submodule(name)
        # three projections, two normalisations
        expected += 3 * conv.in_channels * conv.out_channels + 4 * conv.out_channels
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.out_channels == ((64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048))


@pytest.mark.parametrize(
    ("hybrid_stages", "expected"),
    [
        ((False, True, False, False), ["layer2.0.conv2", "layer2.1.conv2"]),
        (([0], False, (0, 3), []), ["layer1.0.conv2", "layer3.0.conv2", "layer3.3.conv2"]),
        ([False, False, [3], True], ["layer3.3.conv2", "layer4.0.conv2"]),
    ],
    ids=str,
)
def test_any_stage_or_block_can_be_chosen(hybrid_stages, expected):
    model = ACmixResNet(26, hybrid_stages)
    assert [n.removesuffix(".rate1") for n, _ in model.named_parameters() if "rate1" in n] == (
        expected
    )


@pytest.mark.parametrize("depth", [18, 50])
def test_without_operators_it_is_torchvisions_resnet(depth):
    ours = XVolutionResNet(depth, (False,) * 4).eval()
    theirs = getattr(resnet, f"resnet{depth}")().eval()
    entries = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(entries, strict=True)
    images = torch.randn(1, 3, 65, 49)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    expected = []
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = stage(x)
        expected.append(x)
    torch.testing.assert_close(ours(images), tuple(expected))


@pytest.mark.parametrize("depth", [18, 50])
def test_blocks_begin_by_passing_their_input_on(depth):
    model = XVolutionResNet(depth)
    last = "bn2" if depth < 50 else "bn3"
    for stage in model.stages:
        assert not any(getattr(block, last).weight.any() for block in stage)
    model = XVolutionResNet(depth, zero_init_residual=False)
    assert all(getattr(block, last).weight.all() for block in model.layer3)


@pytest.mark.parametrize("settings", PLACEMENTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str
)
def test_merged_it_computes_the_same(settings, dtype, tolerance):
    model, images = trained(settings, dtype), torch.randn(2, 3, 65, 97, dtype=dtype)
    with torch.no_grad():
        expected = model(images)
        slots = places(model)
        model.switch_to_deploy()
        assert places(model) == []
        assert places(model, MergedXVolution) == slots
        for ours, theirs in zip(model(images), expected, strict=True):
            assert 1 < theirs.abs().max() < 100
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("settings", PLACEMENTS[:1] + PLACEMENTS[3:])
def test_states_of_merged_and_branched_networks_round_trip(settings):
    model = trained(settings)
    other = XVolutionResNet(**settings).eval()
    images = torch.randn(1, 3, 65, 49)
    other.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)
    branches = copy.deepcopy(model.state_dict())
    model.switch_to_deploy()
    built = XVolutionResNet(**settings, merged=True).eval()
    built.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(built(images), model(images), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"missing.*qkv\.weight"):
        load_published(built, branches)


def test_the_merged_network_has_fewer_entries_and_no_normalisation_in_its_operators():
    model = XVolutionResNet(50, merged=True)
    names = [name for name in model.state_dict() if name.startswith("layer3.2.conv2.")]
    assert names == [f"layer3.2.conv2.{x}" for x in ("conv.weight", "conv.bias", "qkv.weight")]


def test_merging_in_training_mode_raises_and_changes_nothing():
    model = XVolutionResNet(18, norm_eval=True)
    with pytest.raises(ValueError, match="evaluation mode"):
        model.switch_to_deploy()
    assert len(places(model)) == 4


def test_global_attention_cannot_be_merged():
    with pytest.raises(ValueError, match="cannot be merged"):
        XVolutionResNet(18, attention="global").eval().switch_to_deploy()
    with pytest.raises(ValueError, match=r"merged=True needs attention='shift', got 'global'"):
        XVolutionResNet(18, attention="global", merged=True)


@pytest.mark.parametrize("merged", [False, True])
def test_a_classifier_of_its_own_loads_back(merged):
    settings = dict(type="XVolutionResNet", depth=18, merged=merged, out_indices=(3,))
    head = dict(type="LinearClsHead", num_classes=10, in_channels=512)
    neck = dict(type="GlobalAveragePooling")
    config = dict(type="ImageClassifier", backbone=settings, neck=neck, head=head)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        one, other = MODELS.build(config).eval(), MODELS.build(config).eval()
    load_published(other, one.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(other(images, mode="tensor"), one(images, mode="tensor"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(depth=26), r"depth .*\[18, 34, 50, 101\].*26"),
        (dict(depth="50"), "depth .*'50'"),
        (dict(hybrid_stages=(True,) * 3), "hybrid_stages .*True, True, True"),
        (dict(hybrid_stages=(False, False, 1, False)), r"bool or indices .* got \(False"),
        (dict(hybrid_stages=(False, False, [6], False)), r"3, 4, 6, 3, counted from 0; .*\[6\]"),
        (dict(hybrid_stages=(False, False, [-1], False)), r"hybrid_stages .*\[-1\]"),
        (dict(hybrid_stages=(False, False, "all", False)), "hybrid_stages .*'all'"),
        (dict(num_heads=3), "num_heads=3"),
        (dict(attention="local"), "attention .*'local'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        XVolutionResNet(**changes)

"""What MixFormer is beyond the contract of all backbones: its parts, sizes and weights."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from golden.fill import fill_
from mmpretrain.models import ImageClassifier
from torch import nn

import hybrid_backbones.heads  # noqa: F401, registers ProjectedPooling
from hybrid_backbones.backbones.mixformer import (
    VARIANTS,
    MixFormer,
    MixFormerStem,
    PatchMerging,
)

TINY = dict(embed_dims=16, depths=(1, 2, 1, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0)


def build_classifier(arch):
    channels = 8 * VARIANTS[arch]["embed_dims"]
    return ImageClassifier(
        backbone=dict(type="MixFormer", arch=arch, out_norm="final", out_indices=(3,)),
        neck=dict(type="ProjectedPooling", in_channels=channels, out_channels=1280),
        head=dict(type="LinearClsHead", num_classes=1000, in_channels=1280),
    )


def build_tiny(**kwargs):
    """Build with the same weights whatever was built before."""
    torch.manual_seed(0)
    return MixFormer(TINY, **kwargs)


@pytest.mark.parametrize(
    ("arch", "num_parameters"),
    [
        ("b0", 5_098_767),
        ("b1", 7_887_877),
        ("b2", 9_894_848),
        ("b3", 16_747_808),
        ("b4", 34_797_572),
        ("b5", 61_692_403),
        ("b6", 119_505_054),
    ],
)
def test_classifiers_have_the_published_number_of_parameters(arch, num_parameters):
    with torch.device("meta"):
        classifier = build_classifier(arch)
    assert sum(p.numel() for p in classifier.parameters()) == num_parameters


def test_every_norm_has_the_published_eps():
    modules = [*build_tiny().modules(), *build_tiny(out_norm="final").modules()]
    norms = [module for module in modules if hasattr(module, "eps")]
    # four in the stem, nine in a block, one in a merging, outputs'
    assert len(norms) == 2 * (4 + 9 * 6 + 3) + 4 + 1
    assert {norm.eps for norm in norms} == {1e-5}
    assert {norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(("arch", "last"), [("b0", 0.0), ("b2", 0.05)])
def test_stochastic_depth_has_the_published_rate(arch, last):
    with torch.device("meta"):
        model = MixFormer(arch)
    assert model.stages[3][-1].drop_path.p == pytest.approx(last)


@pytest.mark.parametrize("size", [(1, 1), (33, 2)], ids=str)
def test_a_single_small_image_trains(size):
    # the mean over its positions, which batch normalisation follows, is one value a channel
    outs = build_tiny().train()(torch.randn(1, 3, *size))
    assert all(out.isfinite().all() for out in outs)


def test_a_dropped_block_passes_its_input_on():
    block = fill_(build_tiny(drop_path_rate=1.0).stages[3][-1])
    x = torch.randn(2, 128, 5, 7)
    assert torch.equal(block.train()(x), x)
    assert not torch.allclose(block.eval()(x), x, atol=0.1)


def test_the_stem_completes_patches_by_zeros():
    stem = fill_(MixFormerStem(16)).eval()
    images = torch.randn(2, 3, 6, 9)
    torch.testing.assert_close(stem(images), stem(F.pad(images, (0, 3, 0, 2))))


def test_merging_joins_normalised_positions_and_zeros():
    merging = fill_(PatchMerging(16)).eval().double()
    x = torch.randn(2, 16, 5, 3, dtype=torch.float64)
    normalised = merging.norm(x)
    out = merging(x)
    assert out.shape == (2, 32, 3, 2)
    for y in range(3):
        for column in range(2):
            expected = merging.reduction.bias.expand(2, -1)
            for i in range(2):
                for j in range(2):
                    if 2 * y + i < 5 and 2 * column + j < 3:
                        kernel = merging.reduction.weight[:, :, i, j]
                        position = normalised[:, :, 2 * y + i, 2 * column + j]
                        expected = expected + position @ kernel.T
            torch.testing.assert_close(out[:, :, y, column], expected)


def test_weights_begin_as_published():
    torch.manual_seed(0)
    model = MixFormer("b1")
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, parameter in model.named_parameters():
        owner, kind = name.rsplit(".", 1)
        if kind == "bias":
            assert not parameter.any()
        elif parameter.ndim == 1:
            assert (parameter == 1).all()
        elif owner in convolutions:
            # not divided by the groups: a depthwise kernel is smaller than elsewhere
            channels = convolutions[owner].in_channels
            std = math.sqrt(2 / (channels * parameter[0, 0].numel()))
            if parameter.numel() > 200:
                assert parameter.std().item() == pytest.approx(std, rel=0.2)
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2)
    assert any(re.search(r"dwconv3x3\.0", name) for name in convolutions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="b7"), r"arch .*\['b0', .*'b6'\].*'b7'"),
        (dict(arch=dict(TINY, num_heads=(3, 2, 4, 8))), "num_heads=3, embed_dims=16"),
        (dict(arch=dict(TINY, embed_dims=8)), "embed_dims=8"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MixFormer(**changes)

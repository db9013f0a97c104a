"""What MixFormer is beyond the contract of all backbones: fidelity, names, sizes, padding."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from golden.fill import compare, fill_, make_input
from helpers import golden_files, published_weights
from mmpretrain.models import ImageClassifier
from torch import nn

import hybrid_backbones.heads  # noqa: F401, registers ProjectedPooling
from hybrid_backbones.backbones.mixformer import (
    VARIANTS,
    MixFormer,
    MixFormerBlock,
    MixFormerStem,
    PatchMerging,
)
from hybrid_backbones.checkpoints import load_published, rename
from hybrid_backbones.ops.mixformer import MixingAttention

each_golden = pytest.mark.parametrize(
    "golden", [pytest.param(golden, id=stem) for stem, golden in golden_files("mixformer_*.json")]
)
each_padding = pytest.mark.parametrize("mask_padding", [False, True], ids=["padded", "masked"])

TINY = dict(embed_dims=16, depths=(1, 2, 1, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0)


def arch_of(golden):
    """Find the name of a variant from the arguments of the published constructor."""
    arguments = golden["arguments"]
    sizes = dict(
        embed_dims=arguments["embed_dim"],
        depths=tuple(arguments["depths"]),
        num_heads=tuple(arguments["num_heads"]),
        drop_path_rate=arguments["drop_path_rate"],
    )
    return next(name for name, variant in VARIANTS.items() if variant == sizes)


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


@each_golden
def test_the_classifier_computes_the_published_outputs(golden):
    classifier = build_classifier(arch_of(golden)).eval()
    weights = published_weights(golden)
    report = load_published(classifier, weights)
    assert not report.fresh
    assert {name.rsplit(".", 1)[1] for name in report.dropped} == {"relative_position_index"}
    assert len(report.loaded) + len(report.dropped) == len(weights)
    for case in golden["cases"]:
        images = make_input(case["shape"], case["seed"])
        with torch.no_grad():
            compare([classifier.backbone.stem(images)], [case["stem"]])
            compare(classifier.backbone(images), [case["final_norm"]])
            compare(classifier.extract_feat(images), [case["pooled"]])
            compare([classifier(images, mode="tensor")], [case["logits"]])


@each_golden
def test_features_are_the_published_ones(golden):
    backbone = MixFormer(arch_of(golden), out_norm="none").eval()
    assert not load_published(backbone, published_weights(golden)).fresh
    for case in golden["cases"]:
        images = make_input(case["shape"], case["seed"])
        with torch.no_grad():
            compare(backbone(images), case["features"])


@each_golden
def test_loading_gives_every_entry_its_published_value(golden):
    classifier = build_classifier(arch_of(golden))
    weights = published_weights(golden)
    load_published(classifier, weights)
    own = classifier.state_dict()
    kept = {k: x for k, x in weights.items() if not k.endswith("relative_position_index")}
    assert len(own) == len(kept)
    for name, value in kept.items():
        renamed = rename(name, MixFormer.published.rename)
        prefix = "" if renamed.startswith(("head.", "neck.")) else "backbone."
        assert torch.equal(own[prefix + renamed], value)


@each_golden
def test_a_published_classifier_loads_into_the_dense_backbone(golden):
    backbone = MixFormer(arch_of(golden))
    weights = published_weights(golden)
    report = load_published(backbone, weights)
    dropped = {name for name in report.dropped if not name.endswith("relative_position_index")}
    layers = ("norm", "last_proj", "head")
    assert dropped == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert {name.split(".")[0] for name in report.fresh} == {"norms"}
    own = backbone.state_dict()
    name = "layers.2.downsample.reduction.weight"
    assert torch.equal(own["stages.3.downsample.reduction.weight"], weights[name])


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
        classifier, backbone = build_classifier(arch), MixFormer(arch, out_norm="final")
    assert sum(p.numel() for p in classifier.parameters()) == num_parameters
    channels = backbone.channels[3]
    beside = (channels + 1) * 1280 + 1281 * 1000
    assert sum(p.numel() for p in backbone.parameters()) == num_parameters - beside


def test_our_own_names_stay():
    with torch.device("meta"):
        names = [*build_classifier("b0").state_dict(), *MixFormer("b0").state_dict()]
    for name in names:
        assert rename(name, MixFormer.published.rename) == name.removeprefix("backbone.")


def test_names_say_norm_where_the_published_ones_do():
    # by which recipes choose what does not decay
    ((_, golden),) = golden_files("mixformer_b0.json")
    for name, _, _ in golden["entries"]:
        assert ("norm" in rename(name, MixFormer.published.rename)) == ("norm" in name)


def test_every_norm_has_the_published_eps():
    modules = [*build_tiny().modules(), *build_tiny(out_norm="final").modules()]
    norms = [module for module in modules if hasattr(module, "eps")]
    # four in the stem, nine in a block, one in a merging, outputs'
    assert len(norms) == 2 * (4 + 9 * 6 + 3) + 4 + 1
    assert {norm.eps for norm in norms} == {1e-5}
    assert {norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm2d)} == {0.1}


def test_stochastic_depth_rises_over_all_blocks():
    def rates(model):
        return [m.drop_path.p for m in model.modules() if isinstance(m, MixFormerBlock)]

    assert rates(build_tiny(drop_path_rate=0.5)) == pytest.approx([0.1 * i for i in range(6)])
    with torch.device("meta"):
        published = rates(MixFormer("b2")), rates(MixFormer("b6", drop_path_rate=0.25))
    assert published[0] == pytest.approx([0.05 * i / 19 for i in range(20)])
    assert published[1] == pytest.approx([0.25 * i / 33 for i in range(34)])


def test_a_dropped_block_passes_its_input_on():
    block = fill_(MixFormerBlock(16, 2, 1.0, False))
    x = torch.randn(2, 16, 5, 7)
    assert torch.equal(block.train()(x), x)
    assert not torch.allclose(block.eval()(x), x, atol=0.1)


@pytest.mark.parametrize("out_norm", ["each", "final", "none"])
def test_only_the_outputs_are_normalised(out_norm):
    plain, model = build_tiny(out_norm="none"), build_tiny(out_norm=out_norm)
    images = make_input((2, 3, 65, 49))
    expected = list(plain(images))
    # as new layer norms do
    for i in dict(each=range(4), final=[3], none=[])[out_norm]:
        tokens = expected[i].permute(0, 2, 3, 1)
        expected[i] = F.layer_norm(tokens, tokens.shape[3:]).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(images), tuple(expected))


@each_padding
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(97, 131), (1, 1), (33, 2), (224, 32)], ids=str)
def test_strides_round_sizes_up(size, training, mask_padding):
    # a single image in training too: there a mean of its positions is one value a channel
    model = build_tiny(mask_padding=mask_padding).train(training)
    outs = model(torch.randn(1, 3, *size))
    assert [tuple(out.shape) for out in outs] == [
        (1, 16 * 2**i, *(-(-side // stride) for side in size))
        for i, stride in enumerate((4, 8, 16, 32))
    ]
    assert all(out.isfinite().all() for out in outs)


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


def test_masking_reaches_all_blocks_and_acts_where_windows_do_not_fit():
    padded, masked = build_tiny(out_norm="none").eval(), build_tiny(mask_padding=True).eval()
    attentions = [m for m in masked.modules() if isinstance(m, MixingAttention)]
    assert [m.mask_padding for m in attentions] == [True] * 6
    masked = build_tiny(out_norm="none", mask_padding=True).eval()
    # 56, 28, 14 and 7 rows are whole windows
    images = make_input((1, 3, 224, 224))
    torch.testing.assert_close(masked(images), padded(images), rtol=1e-4, atol=1e-4)
    images = make_input((1, 3, 96, 96))
    for a, b in zip(masked(images), padded(images), strict=True):
        assert not torch.allclose(a, b, rtol=1e-2, atol=1e-2)


@each_padding
@pytest.mark.parametrize("with_cp", [False, True], ids=["stored", "recomputed"])
def test_every_parameter_gets_a_gradient(mask_padding, with_cp):
    model = fill_(build_tiny(mask_padding=mask_padding, with_cp=with_cp))
    # behind a norm, a sum of squares would hardly change
    outs = model(make_input((2, 3, 97, 131)))
    sum((out * make_input(out.shape, 7)).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), name


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_trains_under_autocast_with_close_features(dtype):
    model = fill_(build_tiny())
    images = make_input((2, 3, 65, 97))
    expected = model(images)
    with torch.autocast("cpu", dtype):
        outs = model(images)
    for out, want in zip(outs, expected, strict=True):
        # some dozen layers, each with several roundings
        error = (out.float() - want).norm() / want.norm()
        assert error < 16 * torch.finfo(dtype).eps
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_memory_layout_of_images_changes_nothing():
    model = fill_(build_tiny()).eval().double()
    images = make_input((2, 3, 65, 97)).double()
    expected = model(images)
    channels_last = model.to(memory_format=torch.channels_last)
    actual = channels_last(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@each_padding
def test_it_compiles_into_one_graph(mask_padding):
    torch.compiler.reset()
    model = fill_(build_tiny(mask_padding=mask_padding)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = make_input((2, 3, 65, 97))
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="b7"), r"arch .*\['b0', .*'b6'\].*'b7'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), "arch as a dict must have the keys"),
        (dict(arch=dict(TINY, num_heads=(3, 2, 4, 8))), "num_heads=3, embed_dims=16"),
        (dict(arch=dict(TINY, embed_dims=8)), "embed_dims=8"),
        (dict(out_norm="last"), "out_norm .*'last'"),
        (dict(drop_path_rate=1.5), "drop_path_rate .*1.5"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MixFormer(**changes)

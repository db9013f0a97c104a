"""What SwiftFormer is beyond the contract of all backbones: fidelity, names, attention's forms."""

import copy
import re

import pytest
import torch
from golden.fill import compare, make_input
from helpers import golden_files, published_weights
from mmpretrain.models import ImageClassifier
from torch import nn

import hybrid_backbones.heads  # noqa: F401, registers PairedLinearHead
from hybrid_backbones.backbones.swiftformer import (
    VARIANTS,
    ConvEncoder,
    SwiftFormer,
    SwiftFormerEncoder,
)
from hybrid_backbones.checkpoints import load_published, rename
from hybrid_backbones.ops.swiftformer import EfficientAdditiveAttention

each_form = pytest.mark.parametrize("first_release", [False, True], ids=["current", "first"])
classification = pytest.mark.parametrize(
    "golden",
    [pytest.param(golden, id=stem) for stem, golden in golden_files("swiftformer_??.json")],
)
dense = pytest.mark.parametrize(
    "golden",
    [pytest.param(golden, id=stem) for stem, golden in golden_files("swiftformer_*_feat.json")],
)

TINY = dict(depths=(1, 2, 1, 2), embed_dims=(8, 12, 16, 20))


def arch_of(golden):
    """Find the name of a variant from the arguments of the published constructor."""
    arguments = golden["arguments"]
    sizes = dict(depths=tuple(arguments["layers"]), embed_dims=tuple(arguments["embed_dims"]))
    return next(name for name, variant in VARIANTS.items() if variant == sizes)


def build_classifier(arch, head=None):
    if head is None:
        head = dict(type="PairedLinearHead", average=True)
    sizes = VARIANTS[arch] if isinstance(arch, str) else arch
    return ImageClassifier(
        backbone=dict(type="SwiftFormer", arch=arch, out_norm="final", out_indices=(3,)),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(num_classes=1000, in_channels=sizes["embed_dims"][3], **head),
    )


def build_tiny(**kwargs):
    """Build with the same weights whatever was built before."""
    torch.manual_seed(0)
    return SwiftFormer(TINY, **kwargs)


def make_scales_count(model):
    """Draw the factors of residual branches, which begin next to zero, like other weights."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.normal_(parameter)
    return model


def timm_names(depths):
    """List the entries of timm 1.0.31's SwiftFormer, as its attributes are named."""

    def layer(name):
        return [f"{name}.weight", f"{name}.bias"]

    def norm(name):
        counters = ("running_mean", "running_var", "num_batches_tracked")
        return [*layer(name), *(f"{name}.{counter}" for counter in counters)]

    def conv_encoder(name):
        layers = [*layer(f"{name}.dwconv"), *layer(f"{name}.pwconv1"), *layer(f"{name}.pwconv2")]
        return [*layers, *norm(f"{name}.norm"), f"{name}.layer_scale.gamma"]

    def encoder(name):
        names = [*conv_encoder(f"{name}.local_representation"), f"{name}.attn.w_g"]
        for part in ("to_query", "to_key", "proj", "final"):
            names += layer(f"{name}.attn.{part}")
        names += [*norm(f"{name}.linear.norm1"), *layer(f"{name}.linear.fc1")]
        names += [*layer(f"{name}.linear.fc2")]
        return [*names, *(f"{name}.layer_scale_{i}.gamma" for i in (1, 2))]

    names = [*layer("stem.0"), *norm("stem.1"), *layer("stem.3"), *norm("stem.4")]
    for i, depth in enumerate(depths):
        if i:
            names += [*layer(f"stages.{i}.downsample.proj"), *norm(f"stages.{i}.downsample.norm")]
        for j in range(depth - 1):
            names += conv_encoder(f"stages.{i}.blocks.{j}")
        names += encoder(f"stages.{i}.blocks.{depth - 1}")
    return [*names, *norm("norm"), *layer("head"), *layer("head_dist")]


@classification
def test_logits_and_features_of_the_classifier_are_the_published_ones(golden):
    classifier = build_classifier(arch_of(golden)).eval()
    backbone = SwiftFormer(arch_of(golden), out_norm="none").eval()
    weights = published_weights(golden)
    assert len(load_published(classifier, weights).loaded) == len(weights)
    assert not load_published(backbone, weights).fresh
    for case in golden["cases"]:
        images = make_input(case["shape"], case["seed"])
        with torch.no_grad():
            compare([classifier(images, mode="tensor")], [case["logits"]])
            compare(backbone(images), case["features"])


@dense
def test_dense_features_are_the_published_ones(golden):
    backbone = SwiftFormer(arch_of(golden)).eval()
    report = load_published(backbone, published_weights(golden))
    assert (len(report.loaded), report.dropped, report.fresh) == (len(golden["entries"]), [], [])
    for case in golden["cases"]:
        images = make_input(case["shape"], case["seed"])
        with torch.no_grad():
            compare(backbone(images), case["features"])


@classification
def test_loading_gives_every_entry_its_published_value(golden):
    classifier = build_classifier(arch_of(golden))
    weights = published_weights(golden)
    load_published(classifier, weights)
    own = classifier.state_dict()
    assert len(own) == len(weights)
    for name, value in weights.items():
        renamed = rename(name, SwiftFormer.published.rename)
        prefix = "" if renamed.startswith("head.") else "backbone."
        assert torch.equal(own[prefix + renamed], value)


@classification
def test_a_published_classifier_loads_into_the_dense_backbone(golden):
    backbone = SwiftFormer(arch_of(golden))
    report = load_published(backbone, published_weights(golden))
    assert {name.split(".")[0] for name in report.dropped} == {"norm", "head", "dist_head"}
    assert {name.split(".")[0] for name in report.fresh} == {"norms"}
    assert len(report.loaded) == len(golden["entries"]) - 9


def test_one_layer_classifies_where_the_publication_did_not_distil():
    ((_, golden),) = golden_files("swiftformer_xs.json")
    weights = published_weights(golden)
    paired = build_classifier("xs").eval()
    load_published(paired, weights)
    single = build_classifier("xs", head=dict(type="LinearClsHead")).eval()
    with pytest.raises(ValueError, match=r"2 unexpected: head\.paired_fc\.bias"):
        load_published(single, weights)
    load_published(single, {k: v for k, v in weights.items() if not k.startswith("dist_head.")})
    images = make_input((1, 3, 65, 49))
    with torch.no_grad():
        feats = paired.extract_feat(images)
        torch.testing.assert_close(single(images, mode="tensor"), paired.head.fc(feats[-1]))


@pytest.mark.parametrize(
    ("arch", "with_classifier", "without"),
    [
        ("xs", 3_475_360, 3_033_792),
        ("s", 6_092_128, 5_642_688),
        ("l1", 12_057_920, 11_288_592),
        ("l3", 28_494_736, 27_469_760),
    ],
)
def test_networks_have_the_published_number_of_parameters(arch, with_classifier, without):
    with torch.device("meta"):
        models = build_classifier(arch), SwiftFormer(arch)
    counts = tuple(sum(p.numel() for p in model.parameters()) for model in models)
    assert counts == (with_classifier, without)


@pytest.mark.parametrize("arch", VARIANTS)
def test_names_of_timm_stand_for_all_entries_and_each_for_one(arch):
    names = timm_names(VARIANTS[arch]["depths"])
    renamed = [rename(name, SwiftFormer.published.rename) for name in names]
    with torch.device("meta"):
        own = build_classifier(arch).state_dict()
    assert sorted(renamed) == sorted(name.removeprefix("backbone.") for name in own)


def test_weights_of_timm_give_the_published_logits():
    ((_, golden),) = golden_files("swiftformer_xs.json")
    ours = {
        rename(k, SwiftFormer.published.rename): v for k, v in published_weights(golden).items()
    }
    names = timm_names(VARIANTS["xs"]["depths"])
    classifier = build_classifier("xs").eval()
    load_published(classifier, {n: ours[rename(n, SwiftFormer.published.rename)] for n in names})
    case = golden["cases"][0]
    with torch.no_grad():
        logits = classifier(make_input(case["shape"], case["seed"]), mode="tensor")
    compare([logits], [case["logits"]])


def test_our_own_names_stay():
    with torch.device("meta"):
        names = [*build_classifier("xs").state_dict(), *SwiftFormer("xs").state_dict()]
    for name in names:
        assert rename(name, SwiftFormer.published.rename) == name.removeprefix("backbone.")


def test_the_last_block_of_each_stage_attends():
    blocks = [
        [type(block) for name, block in stage.named_children() if name.isdigit()]
        for stage in build_tiny().stages
    ]
    assert blocks == [[ConvEncoder] * (n - 1) + [SwiftFormerEncoder] for n in TINY["depths"]]


def test_every_norm_is_a_batch_norm_with_the_published_eps():
    modules = [*build_tiny().modules(), *build_tiny(out_norm="final").modules()]
    norms = [module for module in modules if hasattr(module, "eps")]
    # two in the stem, one in a conv encoder, two in an encoder, one in a downsampling, outputs'
    assert len(norms) == 2 * (2 + 2 + 2 * 4 + 3) + 4 + 1
    assert all(type(norm) is nn.BatchNorm2d for norm in norms)
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_stochastic_depth_rises_over_all_blocks_and_acts_in_the_last_of_a_stage():
    model = build_tiny(drop_path_rate=0.5)
    rates = [stage[-1].drop_path.p for stage in model.stages]
    assert rates == pytest.approx([0.5 * block / 5 for block in (0, 2, 3, 5)])
    assert sum(hasattr(module, "drop_path") for module in model.modules()) == 4


def test_a_dropped_encoder_keeps_its_local_representation():
    block = make_scales_count(SwiftFormerEncoder(8, 1.0, False))
    x = torch.randn(2, 8, 5, 7)
    # batch statistics on both sides
    expected = copy.deepcopy(block.local_representation)(x)
    torch.testing.assert_close(block.train()(x), expected)
    assert not torch.allclose(block.eval()(x), block.local_representation(x))


@pytest.mark.parametrize("out_norm", ["each", "final", "none"])
def test_only_the_outputs_are_normalised(out_norm):
    plain = build_tiny(out_norm="none")
    model = build_tiny(out_norm=out_norm)
    images = make_input((2, 3, 65, 49))
    expected = list(plain(images))
    if out_norm == "each":
        expected = [norm(x) for norm, x in zip(model.norms.values(), expected, strict=True)]
    elif out_norm == "final":
        expected[3] = model.final_norm(expected[3])
    torch.testing.assert_close(model(images), tuple(expected))


@each_form
@pytest.mark.parametrize("size", [(97, 131), (1, 1), (33, 2)], ids=str)
def test_strides_round_sizes_up(size, first_release):
    model = build_tiny(first_release=first_release).eval()
    outs = model(torch.randn(2, 3, *size))
    assert [tuple(out.shape) for out in outs] == [
        (2, channels, *(-(-side // stride) for side in size))
        for channels, stride in zip(TINY["embed_dims"], (4, 8, 16, 32), strict=True)
    ]
    assert all(out.isfinite().all() for out in outs)


def test_the_form_of_the_attention_is_that_of_all_stages_and_changes_features():
    current, first = (make_scales_count(build_tiny(first_release=x)) for x in (False, True))
    attentions = [m for m in first.modules() if isinstance(m, EfficientAdditiveAttention)]
    assert [m.first_release for m in attentions] == [True] * 4
    # which is why a wrong pairing cannot be noticed when it is loaded
    current.load_state_dict(first.state_dict())
    images = make_input((2, 3, 65, 49))
    for a, b in zip(current.eval()(images), first.eval()(images), strict=True):
        assert not torch.allclose(a, b, rtol=0.1)


def test_in_the_first_release_w_g_has_no_effect():
    model = make_scales_count(build_tiny(first_release=True)).eval()
    images = make_input((1, 3, 65, 49))
    before = model(images)
    for name, parameter in model.named_parameters():
        if name.endswith("w_g"):
            nn.init.normal_(parameter)
    torch.testing.assert_close(model(images), before, rtol=0, atol=0)


@each_form
@pytest.mark.parametrize("with_cp", [False, True], ids=["stored", "recomputed"])
def test_every_parameter_gets_a_gradient_and_only_an_unused_w_g_that_of_zero(
    first_release, with_cp
):
    model = make_scales_count(build_tiny(first_release=first_release, with_cp=with_cp))
    # behind a norm, a sum of squares would hardly change
    outs = model(make_input((2, 3, 97, 131)))
    sum((out * make_input(out.shape, 7)).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any() != (first_release and name.endswith("w_g")), name


def test_weights_begin_as_published():
    torch.manual_seed(0)
    model = SwiftFormer("xs")
    for name, parameter in model.named_parameters():
        if name.endswith("w_g"):
            assert parameter.std().item() == pytest.approx(1, abs=0.3)
        elif re.search(r"layer_scale_[12]$", name):
            assert (parameter == 1e-5).all()
        elif name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 1 or name.endswith("layer_scale"):
            assert (parameter == 1).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_trains_under_autocast_with_close_features(dtype):
    model = make_scales_count(build_tiny())
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
    model = make_scales_count(build_tiny()).eval().double()
    images = make_input((2, 3, 65, 97)).double()
    expected = model(images)
    channels_last = model.to(memory_format=torch.channels_last)
    actual = channels_last(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@each_form
def test_it_compiles_into_one_graph(first_release):
    torch.compiler.reset()
    model = make_scales_count(build_tiny(first_release=first_release, drop_path_rate=0.1)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = make_input((2, 3, 65, 97))
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="l2"), r"arch .*\['l1', 'l3', 's', 'xs'\].*'l2'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), "arch as a dict must have the keys"),
        (dict(out_norm="last"), "out_norm .*'last'"),
        (dict(drop_path_rate=1.5), "drop_path_rate .*1.5"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SwiftFormer(**changes)

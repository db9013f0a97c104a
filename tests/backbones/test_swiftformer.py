"""What SwiftFormer is beyond the contract of all backbones: names, sizes, attention's forms."""

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

TINY = dict(depths=(1, 2, 1, 2), embed_dims=(8, 12, 16, 20))


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


def named_by_transformers():
    ((_, golden),) = golden_files("swiftformer_xs_transformers.json")
    return published_weights(golden)


def named_by_timm():
    ((_, golden),) = golden_files("swiftformer_xs.json")
    rules = SwiftFormer.published.rename
    ours = {rename(name, rules): value for name, value in published_weights(golden).items()}
    return {n: ours[rename(n, rules)] for n in timm_names(VARIANTS["xs"]["depths"])}


@pytest.mark.parametrize(
    ("weights", "first_release"), [(named_by_transformers, True), (named_by_timm, False)]
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_names_that_tell_the_release_are_refused_by_the_other(weights, first_release, prefix):
    given = {prefix + name: value for name, value in weights().items()}
    model = SwiftFormer("xs", first_release=not first_release)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"need first_release={first_release}.*set model"):
        load_published(model, given)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    load_published(SwiftFormer("xs", first_release=first_release), given)


def test_transformers_backbone_alone_loads_without_its_classifiers_prefix():
    given = {k.removeprefix("swiftformer."): x for k, x in named_by_transformers().items()}
    given = {k: x for k, x in given.items() if k.startswith(("patch_embed", "encoder"))}
    report = load_published(SwiftFormer("xs", first_release=True), given)
    assert sorted(report.loaded) == sorted(
        name for name in SwiftFormer("xs").state_dict() if not name.startswith("norms.")
    )


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


def test_stochastic_depth_acts_in_the_last_block_of_a_stage():
    model = build_tiny(drop_path_rate=0.5)
    drops = [name for name, module in model.named_modules() if hasattr(module, "drop_path")]
    assert drops == [f"stages.{i}.{n - 1}" for i, n in enumerate(TINY["depths"])]


def test_a_dropped_encoder_keeps_its_local_representation():
    block = make_scales_count(SwiftFormerEncoder(8, 1.0, False))
    x = torch.randn(2, 8, 5, 7)
    # batch statistics on both sides
    expected = copy.deepcopy(block.local_representation)(x)
    torch.testing.assert_close(block.train()(x), expected)
    assert not torch.allclose(block.eval()(x), block.local_representation(x))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="l2"), r"arch .*\['l1', 'l3', 's', 'xs'\].*'l2'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SwiftFormer(**changes)

"""BiFormer: fidelity to the publication, and the laws of the network."""

import copy

import pytest
import torch
from golden.fill import compare, make_input
from helpers import golden_files, published_weights
from mmpretrain.models import ImageClassifier
from torch import nn

from hybrid_backbones.backbones.biformer import VARIANTS, BiFormer
from hybrid_backbones.checkpoints import load_published, rename
from hybrid_backbones.ops.biformer import (
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    _RoutingAttention,
)
from hybrid_backbones.ops.lepe_attention import AttentionLePE, AttentionLePE2d

# of a network of the same kind that is built and run in no time
MINI = dict(embed_dims=(32, 32, 64, 64), depths=(1, 1, 2, 1), mlp_ratio=2)
LAYOUTS = {
    "overlap": dict(MINI, overlap=True, pointwise_convs=False),
    "patches": dict(MINI, overlap=False, pointwise_convs=False),
    "patches, pointwise": dict(MINI, overlap=False, pointwise_convs=True),
}
each_layout = pytest.mark.parametrize(
    "arch", [pytest.param(arch, id=name) for name, arch in LAYOUTS.items()]
)


def golden_parameters(*patterns):
    files = [file for pattern in patterns for file in golden_files(pattern)]
    return pytest.mark.parametrize("golden", [pytest.param(g, id=stem) for stem, g in files])


each_dense = golden_parameters("biformer_*_det.json", "biformer_*_seg.json")
each_classifier = golden_parameters("biformer_tiny.json", "biformer_stl_nchw.json")


def build(arch, **settings):
    """Build with the same weights whatever was built before."""
    torch.manual_seed(0)
    return BiFormer(arch, **{"num_windows": 4, **settings})


def build_classifier(arch, **settings):
    """Build a classifier as it was published."""
    return ImageClassifier(
        backbone=dict(
            type=BiFormer, arch=arch, num_windows=7, out_norm="final", out_indices=(3,), **settings
        ),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(
            type="LinearClsHead", num_classes=1000, in_channels=VARIANTS[arch]["embed_dims"][3]
        ),
    )


def count(model):
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def compare_cases(model, golden):
    for case in golden["cases"]:
        compare(model(make_input(case["shape"], case["seed"])), case["features"])


@each_dense
def test_dense_features_are_the_published_ones(golden):
    arch = golden["model"].split("(")[1].split(",")[0]
    model = BiFormer(arch, num_windows=golden["arguments"]["n_win"]).eval()
    report = load_published(model, published_weights(golden))
    assert len(report.loaded) == len(golden["entries"]) == len(model.state_dict())
    assert count(model) == golden["parameters"]
    compare_cases(model, golden)


@each_classifier
def test_a_published_classifier_gives_its_features_and_logits(golden):
    arch = golden["model"].removeprefix("biformer_").removesuffix("_nchw")
    classifier = build_classifier(arch).eval()
    report = load_published(classifier, published_weights(golden))
    assert len(report.loaded) == len(golden["entries"]) == len(classifier.state_dict())
    assert count(classifier) == golden["parameters"]
    with torch.no_grad():
        for case in golden["cases"]:
            logits = classifier(make_input(case["shape"], case["seed"]), mode="tensor")
            compare([logits], [case["logits"]])
    raw = BiFormer(arch, num_windows=7, out_norm="none").eval()
    load_published(raw, published_weights(golden))
    compare_cases(raw, golden)


@each_classifier
def test_a_published_classifier_loads_into_a_dense_backbone(golden):
    model = BiFormer(golden["model"].removeprefix("biformer_").removesuffix("_nchw"))
    report = load_published(model, published_weights(golden))
    assert report.fresh == sorted(name for name in model.state_dict() if name.startswith("norms."))
    assert all(name.startswith(("norm.", "head.")) for name in report.dropped)


@golden_parameters("biformer_*.json")
def test_what_recipes_take_for_norms_are_the_published_norms(golden):
    # training recipes do not decay entries whose names contain "norm"
    for name, _, _ in golden["entries"]:
        assert ("norm" in name) == ("norm" in rename(name, BiFormer.published.rename))


@pytest.mark.parametrize("arch", VARIANTS)
@pytest.mark.parametrize("out_norm", ["each", "final"])
def test_our_own_names_stay(arch, out_norm):
    with torch.device("meta"):
        model = BiFormer(arch, out_norm=out_norm)
    for name in [*model.state_dict(), "head.fc.weight", "head.fc.bias"]:
        assert rename(name, model.published.rename) == name


@pytest.mark.parametrize(
    ("arch", "num_parameters"),
    [
        ("tiny", 13_142_760),
        ("small", 25_536_232),
        ("base", 56_804_968),
        ("stl", 28_372_552),
        ("stl_linear", 28_372_552),
    ],
)
def test_classifiers_have_the_published_number_of_parameters(arch, num_parameters):
    with torch.device("meta"):
        assert count(build_classifier(arch)) == num_parameters


@pytest.mark.parametrize(
    ("arch", "num_parameters"),
    [("tiny", 12_630_656), ("small", 25_024_128), ("base", 56_037_312)],
)
def test_dense_backbones_have_the_published_number_of_parameters(arch, num_parameters):
    with torch.device("meta"):
        assert count(BiFormer(arch)) == num_parameters


@pytest.mark.parametrize("arch", VARIANTS)
@pytest.mark.parametrize("out_norm", ["each", "final"])
def test_normalisation_has_the_published_kind_and_eps(arch, out_norm):
    with torch.device("meta"):
        model = BiFormer(arch, out_norm=out_norm)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-5
            assert name == "final_norm" or "norm" not in name
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            assert name.split(".")[-1] in ("norm1", "norm2") or name.startswith("norms.")
        else:
            assert not hasattr(module, "eps")
    assert hasattr(model, "final_norm") == (out_norm == "final")
    assert len(model.norms) == (4 if out_norm == "each" else 0)


@pytest.mark.parametrize("arch", VARIANTS)
def test_operators_have_the_published_settings(arch):
    with torch.device("meta"):
        model = BiFormer(arch, num_windows=8)
    pointwise = arch == "stl"
    for stage, topk in zip(model.stages[:3], (1, 4, 16), strict=True):
        for attn in (m for m in stage.modules() if isinstance(m, _RoutingAttention)):
            form = BiLevelRoutingAttention2d if pointwise else BiLevelRoutingAttention
            assert type(attn) is form
            assert (attn.topk, attn.num_windows, attn.mask_padding) == (topk, 8, False)
            assert attn.lepe.in_channels == 32 * attn.num_heads
    last = model.stages[3].get_submodule("0.attn")
    assert type(last) is (AttentionLePE2d if pointwise else AttentionLePE)
    assert last.num_heads == 8


def test_stl_linear_is_stl_in_linear_layers_but_for_the_last_stage():
    # 224 / 32 = 7: regions tile all maps, where both routing operators are equal
    linear, pointwise = (BiFormer(arch, num_windows=7).eval() for arch in ("stl_linear", "stl"))
    names = dict(qkv_linear="qkv.qkv", output_linear="wo")
    shapes = {name: x.shape for name, x in linear.state_dict().items()}
    weights = {}
    for name, x in pointwise.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        weights[name] = x.view(shapes[name])
    linear.load_state_dict(weights)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        ours, theirs = linear(images), pointwise(images)
    torch.testing.assert_close(ours[:3], theirs[:3], rtol=0, atol=1e-4)
    assert not torch.allclose(ours[3], theirs[3], atol=1e-2)


@pytest.mark.parametrize("blocks", ["0.mlp.0", "0.mlp.2", "1.mlp.3"])
def test_both_published_numberings_of_the_mlp_are_known(blocks):
    renamed = rename(f"stages.0.blocks.{blocks}.weight", BiFormer.published.rename)
    block, _, number = blocks.split(".")
    assert renamed == f"stages.0.{block}.mlp.fc{1 if number == '0' else 2}.weight"


def test_weights_do_not_depend_on_the_number_of_windows():
    few, many = (build(LAYOUTS["overlap"], num_windows=n) for n in (4, 16))
    many.load_state_dict(few.state_dict())
    images = torch.randn(1, 3, 128, 96)
    assert not torch.allclose(few.eval()(images)[0], many.eval()(images)[0])


@each_layout
def test_masking_matters_only_where_maps_are_padded(arch):
    plain = build(arch).eval()
    masked = build(arch, mask_padding=True).eval()
    tiled, padded = torch.randn(1, 3, 128, 64), torch.randn(1, 3, 136, 64)
    torch.testing.assert_close(masked(tiled), plain(tiled))
    assert not torch.allclose(masked(padded)[2], plain(padded)[2])


@each_layout
def test_initialisation_is_the_published_one(arch):
    model = build(arch)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.Conv2d):
            # PyTorch's: uniform to 1 / sqrt(fan in)
            bound = module.weight[0].numel() ** -0.5
            assert 0.8 * bound < module.weight.abs().max().item() <= bound
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_stochastic_depth_rises_linearly_to_its_rate():
    model = build(LAYOUTS["overlap"], drop_path_rate=0.4)
    rates = [m.drop_path.p for m in model.modules() if hasattr(m, "drop_path")]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_stochastic_depth_drops_both_branches_of_the_last_block():
    model = build(LAYOUTS["overlap"], drop_path_rate=1.0).train()
    block, x = model.stages[3].get_submodule("0"), torch.randn(2, 64, 5, 4)
    torch.testing.assert_close(block(x), x + block.pos_embed(x))


@each_layout
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 40), (97, 131)], ids=str)
def test_images_of_any_size_are_taken(arch, size):
    model = build(arch, num_windows=7).eval()
    outs = model(torch.randn(2, 3, *size))
    for side, sides in zip(size, zip(*(out.shape[2:] for out in outs), strict=True), strict=True):
        for stride, length in zip(model.strides, sides, strict=True):
            up, down = -(-side // stride), max(side // stride, 1)
            assert length == (up if arch["overlap"] else down)
    assert [out.shape[1] for out in outs] == list(arch["embed_dims"])
    assert all(out.isfinite().all() for out in outs)


@each_layout
def test_all_parameters_get_gradients_which_recomputation_does_not_change(arch):
    images = torch.randn(2, 3, 65, 49)
    grads = []
    for with_cp in (False, True):
        model = build(arch, with_cp=with_cp, drop_path_rate=0.0)
        sum(out.square().mean() for out in model(images)).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(grad is not None and grad.isfinite().all() for grad in grads[0])
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_it_compiles_into_one_graph():
    torch.compiler.reset()
    model = build(LAYOUTS["overlap"], mask_padding=True).eval()
    images = torch.randn(1, 3, 72, 57)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(arch="huge"), "arch must be one of .*'huge'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), "must have the keys .*embed_dims"),
        (dict(num_windows=3), "num_windows² = 9, got topk=16"),
        (dict(num_windows=0), "num_windows=0"),
        (dict(drop_path_rate=-0.1), "drop_path_rate .*-0.1"),
        (dict(out_norm="every"), "out_norm .*'every'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        BiFormer(**settings)

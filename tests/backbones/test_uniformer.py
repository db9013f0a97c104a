"""UniFormer and UniFormerLight: fidelity to the publication, and the laws of both networks."""

import pytest
import torch
from golden.fill import compare, fill_, make_input
from helpers import golden_files, published_weights
from mmpretrain.models import ImageClassifier

import hybrid_backbones.heads  # noqa: F401, registers the head
from hybrid_backbones.backbones.uniformer import VARIANTS, GlobalBlock, UniFormer
from hybrid_backbones.backbones.uniformer_light import VARIANTS as LIGHT_VARIANTS
from hybrid_backbones.backbones.uniformer_light import UniFormerLight
from hybrid_backbones.checkpoints import load_published, rename

# float64 over sums of some hundred terms of order one
EXACT = dict(rtol=0, atol=1e-10)
SIZES = dict(depths=(1, 1, 4, 1), embed_dims=(8, 16, 24, 32), head_dims=8)
TINY = dict(arch=dict(SIZES, conv_stem=False, layer_scale=False))
TINY_LIGHT = dict(arch=dict(SIZES, depths=(1, 1, 3, 2)))
each_network = pytest.mark.parametrize(
    ("network", "settings"),
    [
        pytest.param(UniFormer, TINY, id="patch stem"),
        pytest.param(UniFormer, dict(arch=dict(TINY["arch"], conv_stem=True)), id="conv stem"),
        pytest.param(UniFormer, dict(arch=dict(TINY["arch"], layer_scale=True)), id="layer scale"),
        pytest.param(UniFormer, dict(TINY, attention="hybrid", window_size=3), id="hybrid"),
        pytest.param(UniFormerLight, TINY_LIGHT, id="light"),
    ],
)

DENSE = [
    (stem, golden) for stem, golden in golden_files("uniformer_*.json") if stem.count("_") > 2
] + golden_files("uniformer_det_xxs.json")
CLASSIFIERS = [
    *golden_files("uniformer_small.json"),
    *golden_files("uniformer_small_plus.json"),
    *golden_files("uniformer_xxs.json"),
]
each_dense = pytest.mark.parametrize("golden", [pytest.param(g, id=stem) for stem, g in DENSE])
each_classifier = pytest.mark.parametrize(
    "golden", [pytest.param(g, id=stem) for stem, g in CLASSIFIERS]
)


def build_dense(golden):
    """Build a dense backbone as its published configuration would."""
    if golden["model"] == "UniFormer_Light":
        return UniFormerLight("xxs")
    arguments = golden["arguments"]
    attention = "hybrid" if arguments["hybrid"] else "global"
    attention = "windows" if arguments["windows"] else attention
    return UniFormer("small", attention=attention, window_size=arguments.get("window_size", 14))


def build_classifier(arch):
    """Build a classifier as it was published."""
    light = arch in LIGHT_VARIANTS
    head = dict(type="PairedLinearHead", average=False) if light else dict(type="LinearClsHead")
    channels = (LIGHT_VARIANTS if light else VARIANTS)[arch]["embed_dims"][3]
    return ImageClassifier(
        backbone=dict(
            type="UniFormerLight" if light else "UniFormer",
            arch=arch,
            out_norm="final",
            out_indices=(3,),
        ),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(head, num_classes=1000, in_channels=channels),
    )


def build_published_classifier(golden):
    return build_classifier(golden["model"].removeprefix("uniformer_"))


def build(network, settings, **more):
    torch.manual_seed(0)
    return network(**settings, **more)


@torch.no_grad()
def compare_cases(model, golden):
    for case in golden["cases"]:
        compare(model(make_input(case["shape"], case["seed"])), case["features"])


@each_dense
def test_dense_features_are_the_published_ones(golden):
    model = build_dense(golden).eval()
    report = load_published(model, published_weights(golden))
    assert len(report.loaded) == len(golden["entries"]) == len(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]
    compare_cases(model, golden)


@each_classifier
def test_a_published_classifier_gives_its_features_and_logits(golden):
    classifier = build_published_classifier(golden).eval()
    report = load_published(classifier, published_weights(golden))
    assert len(report.loaded) == len(golden["entries"]) == len(classifier.state_dict())
    assert sum(p.numel() for p in classifier.parameters()) == golden["parameters"]
    with torch.no_grad():
        for case in golden["cases"]:
            logits = classifier(make_input(case["shape"], case["seed"]), mode="tensor")
            compare([logits], [case["logits"]])
    raw = type(classifier.backbone)(golden["model"].removeprefix("uniformer_"), out_norm="none")
    load_published(raw.eval(), published_weights(golden))
    compare_cases(raw, golden)


@each_classifier
def test_a_published_classifier_loads_into_a_dense_backbone(golden):
    name = golden["model"].removeprefix("uniformer_")
    model = (UniFormerLight if name == "xxs" else UniFormer)(name)
    report = load_published(model, published_weights(golden))
    assert report.fresh == sorted(name for name in model.state_dict() if name.startswith("norms."))
    assert all(name.startswith(("norm.", "norm_cls.", "head")) for name in report.dropped)


def outputs_inside(model, names, images):
    """Run the model; return the outputs of the named modules as tokens ``(B, N, C)``."""
    tokens = {}

    def keep(name):
        def hook(module, inputs, out):
            channels_last = name.endswith("mlp")
            tokens[name] = out.flatten(1, 2) if channels_last else out.flatten(2).transpose(1, 2)

        return hook

    for name in names:
        ours = rename(f"{name}.", model.published.rename).removesuffix(".")
        model.get_submodule(ours).register_forward_hook(keep(name))
    with torch.no_grad():
        model(images)
    return [tokens[name] for name in names]


@pytest.mark.parametrize("arch", ["small_plus", "small_plus_dim64"])
def test_what_features_are_blind_to_is_the_published(arch):
    golden = dict(CLASSIFIERS)["uniformer_small_plus"]
    model = UniFormer(arch, out_norm="none").eval()
    load_published(model, published_weights(golden))
    case = golden["cases"][1]
    images = make_input(case["shape"], case["seed"])
    inside = outputs_inside(model, list(case["modules"]), images)
    if arch == "small_plus":
        compare(inside, list(case["modules"].values()))
    else:
        with pytest.raises(AssertionError, match="relative error"):
            compare(inside, list(case["modules"].values()))


@pytest.mark.parametrize("golden", [pytest.param(g, id=stem) for stem, g in [*DENSE, *CLASSIFIERS]])
def test_normalisation_has_the_published_eps(golden):
    is_classifier = golden["model"].startswith("uniformer_")
    with torch.device("meta"):
        model = (
            build_published_classifier(golden).backbone if is_classifier else build_dense(golden)
        )
    own = {name: m.eps for name, m in model.named_modules() if hasattr(m, "eps")}
    renamed = {
        rename(f"{name}.", model.published.rename).removesuffix("."): eps
        for name, eps in golden["norm_eps"].items()
    }
    assert own == renamed


@each_dense
def test_names_contain_norm_where_the_published_do(golden):
    # recipes switch weight decay off by this substring
    rules = (UniFormer if golden["model"] == "UniFormer" else UniFormerLight).published.rename
    for published, _, _ in golden["entries"]:
        ours = rename(published, rules)
        assert ("norm" in published) == ("norm" in ours)


@pytest.mark.parametrize(
    ("arch", "classifier", "dense"),
    [
        ("small", 21_545_256, 21_033_280),
        ("small_plus", 24_032_552, None),
        ("small_plus_dim64", 24_032_552, None),
        ("base", 49_776_552, 49_264_576),
        ("base_ls", 49_796_520, None),
        ("xxs", 10_215_280, 9_317_168),
        ("xs", 16_509_264, 15_483_136),
    ],
)
def test_variants_have_the_published_number_of_parameters(arch, classifier, dense):
    with torch.device("meta"):
        model = build_classifier(arch)
        assert sum(p.numel() for p in model.parameters()) == classifier
        backbone = type(model.backbone)(arch)
    if dense is not None:
        assert sum(p.numel() for p in backbone.parameters()) == dense


@each_network
def test_own_checkpoints_load_too(network, settings):
    model = build(network, settings)
    fill_(model)
    other = network(**settings)
    load_published(other, model.state_dict())
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


@each_network
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (65, 49), (70, 97)], ids=str)
def test_maps_have_the_published_sizes(network, settings, size):
    model = build(network, settings)
    outs = model(torch.randn(2, 3, *size))
    arch = settings["arch"]
    conv_stem = network is UniFormerLight or arch["conv_stem"]
    expected = [tuple(-(-x // 4) if conv_stem else max(x // 4, 1) for x in size)]
    for _ in range(3):
        up = network is UniFormer and arch["conv_stem"]
        expected.append(tuple(-(-x // 2) if up else max(x // 2, 1) for x in expected[-1]))
    assert [tuple(out.shape[2:]) for out in outs] == expected
    assert [out.shape[1] for out in outs] == list(model.out_channels)
    sum(out.square().mean() for out in outs).backward()
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@each_network
def test_linear_layers_begin_small(network, settings):
    for module in build(network, settings).modules():
        if isinstance(module, torch.nn.Linear):
            assert 0.018 < module.weight.std() < 0.022
            assert not module.bias.any()


@each_network
def test_it_compiles_into_one_graph(network, settings):
    torch.compiler.reset()
    model = build(network, settings).eval().double()
    images = torch.randn(1, 3, 70, 49, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), model(images), **EXACT)


@each_network
def test_half_precision_runs(network, settings):
    model = build(network, settings).bfloat16()
    outs = model(torch.randn(1, 3, 65, 49, dtype=torch.bfloat16))
    assert all(out.dtype == torch.bfloat16 and out.isfinite().all() for out in outs)


def test_layer_scale_begins_small_in_the_last_two_stages():
    model = build(UniFormer, dict(arch=dict(TINY["arch"], layer_scale=True)))
    gammas = {name: p for name, p in model.named_parameters() if "gamma" in name}
    assert {name[:8] for name in gammas} == {"stages.2", "stages.3"}
    assert len(gammas) == 2 * 5
    assert all((gamma == 1e-6).all() for gamma in gammas.values())


@pytest.mark.parametrize(
    ("attention", "windowed"),
    [("global", ()), ("hybrid", (0, 1, 2, 4, 5, 6)), ("windows", tuple(range(8)))],
)
def test_attention_says_which_blocks_of_stage_3_have_windows(attention, windowed):
    with torch.device("meta"):
        model = UniFormer("small", attention=attention, window_size=7)
    for i in (2, 3):
        sizes = [b.attn.window_size for b in model.stages[i] if isinstance(b, GlobalBlock)]
        expected = windowed if i == 2 else ()
        assert sizes == [7 if j in expected else None for j in range(len(sizes))]


def test_masked_padding_counts_only_where_there_is_padding():
    settings = dict(TINY, attention="windows", window_size=3)
    plain = fill_(build(UniFormer, settings)).eval()
    masked = fill_(build(UniFormer, settings, mask_padding=True)).eval()
    whole, padded = torch.randn(1, 3, 96, 48), torch.randn(1, 3, 80, 48)
    torch.testing.assert_close(masked(whole), plain(whole), rtol=0, atol=0)
    same = [torch.equal(a, b) for a, b in zip(masked(padded), plain(padded), strict=True)]
    assert same == [True, True, False, False]
    with pytest.warns(UserWarning, match="mask_padding has no effect"):
        build(UniFormer, TINY, mask_padding=True)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (UniFormer, dict(arch="tiny"), "arch .*'small'.*'tiny'"),
        (UniFormer, dict(attention="local"), "attention .*'hybrid'.*'local'"),
        (UniFormer, dict(attention="hybrid", window_size=0), "window_size=0"),
        (UniFormer, dict(arch=dict(TINY["arch"], head_dims=7)), "head_dims=7, embed_dims=24"),
        (UniFormer, dict(drop_path_rate=2), "drop_path_rate .*2"),
        (UniFormer, dict(out_norm="all"), "out_norm .*'all'"),
        (UniFormerLight, dict(arch="small"), "arch .*'xxs'.*'small'"),
        (UniFormerLight, dict(arch=dict(TINY_LIGHT["arch"], head_dims=5)), "head_dims=5"),
        (UniFormerLight, dict(out_norm="final", out_indices=(0,)), "out_norm='final'"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(network, settings, message):
    with pytest.raises(ValueError, match=message):
        network(**settings)

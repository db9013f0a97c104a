"""What UniFormer is beyond the contract of all backbones, and sizes of UniFormerLight, too."""

import pytest
import torch
from golden.fill import compare, make_input
from helpers import golden_files, published_weights
from mmpretrain.models import ImageClassifier

import hybrid_backbones.heads  # noqa: F401, registers the head
from hybrid_backbones.backbones.uniformer import VARIANTS, GlobalBlock, UniFormer
from hybrid_backbones.backbones.uniformer_light import VARIANTS as LIGHT_VARIANTS
from hybrid_backbones.backbones.uniformer_light import UniFormerLight
from hybrid_backbones.checkpoints import load_published, rename

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


def build(network, settings, **more):
    torch.manual_seed(0)
    return network(**settings, **more)


def outputs_inside(model, names, images):
    """Run the model; return the outputs of the named modules as tokens ``(B, N, C)``."""
    tokens = {}

    def keep(name):
        def hook(module, inputs, out):
            tokens[name] = out.flatten(2).transpose(1, 2)

        return hook

    for name in names:
        ours = rename(f"{name}.", model.published.rename).removesuffix(".")
        model.get_submodule(ours).register_forward_hook(keep(name))
    with torch.no_grad():
        model(images)
    return [tokens[name] for name in names]


@pytest.mark.parametrize("arch", ["small_plus", "small_plus_dim64"])
def test_what_features_are_blind_to_is_the_published(arch):
    ((_, golden),) = golden_files("uniformer_small_plus.json")
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


@pytest.mark.parametrize(
    ("arch", "classifier", "dense"),
    [
        ("small", 21_545_256, 21_033_280),
        ("small_dim32", 21_545_256, 21_033_280),
        ("small_plus", 24_032_552, None),
        ("small_plus_dim64", 24_032_552, None),
        ("base", 49_776_552, 49_264_576),
        ("base_dim32", 49_776_552, 49_264_576),
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


def test_the_large_variant_has_a_hundred_million_parameters_as_published():
    with torch.device("meta"):
        model = build_classifier("large_ls")
    # token labelling adds a second classifier like the first
    parts = (model, model.head.fc)
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    assert round(parameters / 1e6) == 100


@pytest.mark.parametrize(
    ("arch", "num_heads"),
    [
        *(("small", (5, 8)), ("small_dim32", (10, 16)), ("small_plus", (10, 16))),
        *(("base_dim32", (10, 16)), ("large_ls", (7, 10))),
    ],
)
def test_variants_have_the_published_number_of_heads(arch, num_heads):
    with torch.device("meta"):
        stages = UniFormer(arch).stages
    assert tuple(stage.get_submodule("0").attn.num_heads for stage in stages[2:]) == num_heads


@each_network
def test_linear_layers_begin_small(network, settings):
    for module in build(network, settings).modules():
        if isinstance(module, torch.nn.Linear):
            assert 0.018 < module.weight.std() < 0.022
            assert not module.bias.any()


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


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (UniFormer, dict(arch="tiny"), "arch .*'small'.*'tiny'"),
        (UniFormer, dict(attention="local"), "attention .*'hybrid'.*'local'"),
        (UniFormer, dict(attention="hybrid", window_size=0), "window_size=0"),
        (UniFormer, dict(arch=dict(TINY["arch"], head_dims=7)), "head_dims=7, embed_dims=24"),
        (UniFormerLight, dict(arch="small"), "arch .*'xxs'.*'small'"),
        (UniFormerLight, dict(arch=dict(TINY_LIGHT["arch"], head_dims=5)), "head_dims=5"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(network, settings, message):
    with pytest.raises(ValueError, match=message):
        network(**settings)

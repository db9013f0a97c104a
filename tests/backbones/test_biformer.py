"""What BiFormer is beyond the contract of all backbones: names, sizes, settings, weights."""

import pytest
import torch
from mmpretrain.models import ImageClassifier
from torch import nn

from hybrid_backbones.backbones.biformer import VARIANTS, BiFormer
from hybrid_backbones.checkpoints import rename
from hybrid_backbones.ops.biformer import (
    AttentionLePE,
    AttentionLePE2d,
    BiLevelRoutingAttention,
    BiLevelRoutingAttention2d,
    _RoutingAttention,
)

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
            assert (attn.topk, attn.num_windows) == (topk, 8)
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


def test_stochastic_depth_drops_both_branches_of_the_last_block():
    model = build(LAYOUTS["overlap"], drop_path_rate=1.0).train()
    block, x = model.stages[3].get_submodule("0"), torch.randn(2, 64, 5, 4)
    torch.testing.assert_close(block(x), x + block.pos_embed(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_windows=3), "num_windows² = 9, got topk=16"),
        (dict(num_windows=0), "num_windows=0"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        BiFormer(**settings)

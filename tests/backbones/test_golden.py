"""Fidelity to the publications: entries, normalisation, features and logits of golden files."""

import re

import pytest
import torch
from golden.fill import compare, make_input
from helpers import GOLDEN, golden_files, published_weights
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hybrid_backbones.backbones import BiFormer, SwiftFormer, UniFormer, UniFormerLight
from hybrid_backbones.backbones.names import matches
from hybrid_backbones.checkpoints import PUBLISHED, load_published, rename

# published classifiers: golden file to config
CLASSIFIERS = {
    "acmix_resnet26": "imagenet_acmix_r26",
    "acmix_resnet50": "imagenet_acmix_r50",
    "acmix_swin_tiny": "imagenet_acmix_swin_t",
    "biformer_stl_nchw": "imagenet_biformer_stl",
    "biformer_tiny": "imagenet_biformer_t",
    "mixformer_b0": "imagenet_mixformer_b0",
    "mixformer_b1": "imagenet_mixformer_b1",
    "mixformer_b4": "imagenet_mixformer_b4",
    "swiftformer_l1": "imagenet_swiftformer_l1",
    "swiftformer_xs": "imagenet_swiftformer_xs",
    "swiftformer_xs_transformers": "imagenet_swiftformer_xs",
    "uniformer_small": "imagenet_uniformer_s",
    "uniformer_small_plus": "imagenet_uniformer_s_plus",
    "uniformer_xxs": "imagenet_uniformer_xxs",
}
# what must change in the config, as the table of published files says
OPTIONS = {"swiftformer_xs_transformers": PUBLISHED["swiftformer_xs_first_release"].options}
# published backbones for dense prediction: golden file to class and arguments
UNIFORMERS = {
    "global": dict(attention="global"),
    "hybrid14": dict(attention="hybrid"),
    "windows32": dict(attention="windows", window_size=32),
}
DENSE = {
    "biformer_small_det": (BiFormer, dict(arch="small", num_windows=16)),
    "biformer_small_seg": (BiFormer, dict(arch="small", num_windows=8)),
    "biformer_tiny_det": (BiFormer, dict(arch="tiny", num_windows=16)),
    "swiftformer_l1_feat": (SwiftFormer, dict(arch="l1")),
    "swiftformer_xs_feat": (SwiftFormer, dict(arch="xs")),
    "uniformer_det_xxs": (UniFormerLight, dict(arch="xxs")),
} | {
    f"uniformer_{task}_small_{attention}": (UniFormer, dict(arch="small", **settings))
    for attention, settings in UNIFORMERS.items()
    for task in (("fpn", "upernet") if attention == "windows32" else ("det", "fpn", "upernet"))
}


def build_classifier(repository, golden):
    """Build a classifier from its config, and its backbone with four maps, none normalised."""
    cfg = Config.fromfile(repository / "configs" / f"{CLASSIFIERS[golden]}.py")
    cfg.merge_from_dict(OPTIONS.get(golden, {}))
    cfg.model.data_preprocessor = cfg.data_preprocessor
    settings = dict(cfg.model.backbone, out_indices=(0, 1, 2, 3))
    if "out_norm" in settings:
        settings["out_norm"] = "none"
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(cfg.model).eval(), MODELS.build(settings).eval()


# one of each network, for what is equal in all its sizes, and for the other packages
ONE_EACH = (
    *("acmix_resnet26", "acmix_swin_tiny", "biformer_stl_nchw", "mixformer_b0"),
    *("swiftformer_xs", "uniformer_small", "uniformer_xxs"),
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.upstream if name in ONE_EACH else ())
        for name in (*CLASSIFIERS, *DENSE)
    ],
)
def published(request, repository):
    """A golden file, its weights, the classifier or dense backbone, and what gives features."""
    ((_, golden),) = golden_files(f"{request.param}.json")
    weights = published_weights(golden)
    torch.manual_seed(0)
    if request.param in DENSE:
        network, settings = DENSE[request.param]
        model = backbone = network(**settings).eval()
    else:
        model, backbone = build_classifier(repository, request.param)
        load_published(backbone, weights)
    load_published(model, weights)
    return golden, weights, model, backbone


def own_names(model, names):
    """Rename published entries to those of a classifier or of a backbone alone."""
    backbone = getattr(model, "backbone", model)
    for name in names:
        renamed = rename(name, backbone.published.rename)
        if matches(backbone.published.computed, renamed):
            continue
        beside = backbone is model or matches(backbone.published.classifier, renamed)
        yield name, renamed if beside else f"backbone.{renamed}"


def test_every_golden_file_of_a_network_is_compared():
    names = {path.stem for path in GOLDEN.glob("*.json")}
    networks = {name for name in names if not re.search(r"_op(_|$)|^locformer_", name)}
    assert networks == CLASSIFIERS.keys() | DENSE.keys()


def test_entries_map_one_to_one_onto_the_published_ones(published):
    golden, _, model, _ = published
    published_shapes = {name: shape for name, shape, _ in golden["entries"]}
    names = dict(own_names(model, published_shapes))
    assert len(set(names.values())) == len(names)
    shapes = {ours: published_shapes[name] for name, ours in names.items()}
    assert {name: list(x.shape) for name, x in model.state_dict().items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]


def test_loading_gives_every_entry_its_published_value(published):
    _, weights, model, _ = published
    own = model.state_dict()
    for name, ours in own_names(model, weights):
        assert torch.equal(own[ours], weights[name])


def test_names_say_norm_where_the_published_ones_do(published):
    # by which recipes choose what does not decay
    _, weights, model, backbone = published
    if isinstance(backbone, SwiftFormer):
        pytest.skip("what decays in its dense recipes was not published")
    names = own_names(model, weights)
    assert not [name for name, ours in names if ("norm" in name) != ("norm" in ours)]


def test_features_and_logits_are_the_published_ones(published):
    golden, _, model, backbone = published
    for case in golden["cases"]:
        images = make_input(case["shape"], case["seed"])
        with torch.no_grad():
            compare(backbone(images), case["features"])
            if "logits" in case:
                compare([model(images, mode="tensor")], [case["logits"]])


def test_normalisation_has_the_published_eps(published):
    golden, _, model, _ = published
    if "norm_eps" not in golden:
        pytest.skip("the golden file does not say it")
    weights = {f"{name}.weight": eps for name, eps in golden["norm_eps"].items()}
    names = dict(own_names(model, weights))
    expected = {ours.removesuffix(".weight"): weights[name] for name, ours in names.items()}
    own = {name: module.eps for name, module in model.named_modules() if hasattr(module, "eps")}
    assert own == expected


def test_our_own_checkpoints_load_like_published_ones(published):
    *_, model, _ = published
    own = model.state_dict()
    report = load_published(model, dict(state_dict=own))
    assert report.loaded == sorted(own)
    assert not report.dropped
    assert not report.fresh


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_published_classifier_starts_a_dense_backbone(name, repository):
    ((_, golden),) = golden_files(f"{name}.json")
    cfg = Config.fromfile(repository / "configs" / f"{CLASSIFIERS[name]}.py")
    settings = dict(cfg.model.backbone, out_indices=(1, 2, 3))
    settings.pop("out_norm", None)
    backbone = MODELS.build(settings).eval()
    report = load_published(backbone, published_weights(golden))
    assert report.fresh == sorted(x for x in backbone.state_dict() if x.startswith("norms."))
    assert {name.split(".")[0] for name in report.dropped} <= {
        *("head", "dist_head", "head_cls", "last_proj", "fc", "norm", "norm_cls", "layers")
    }


def test_a_dense_checkpoint_that_has_lost_a_norm_is_refused():
    backbone = UniFormerLight(arch="xxs")
    weights = backbone.state_dict()
    del weights["norms.2.bias"]
    with pytest.raises(ValueError, match=r"1 missing: norms\.2\.bias"):
        load_published(UniFormerLight(arch="xxs"), weights)


def test_norms_of_outputs_that_are_not_asked_for_are_dropped():
    weights = UniFormerLight(arch="xxs").state_dict()
    report = load_published(UniFormerLight(arch="xxs", out_indices=(1, 2, 3)), weights)
    assert report.dropped == ["norms.0.weight", "norms.0.bias"]

"""Fidelity to the publications: entries, normalisation, features and logits of golden files."""

import pytest
import torch
from golden.fill import compare, make_input
from helpers import golden_files, published_weights
from mmpretrain.models import ImageClassifier

from hybrid_backbones.backbones.resnet import DEPTHS
from hybrid_backbones.checkpoints import load_published, rename


def build_acmix_resnet(layers):
    """Build the classifier that was published, in mmpretrain's terms."""
    depths = {blocks: depth for depth, blocks in DEPTHS.items()}
    return ImageClassifier(
        backbone=dict(type="ACmixResNet", depth=depths[tuple(layers)]),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=1000, in_channels=2048),
    )


# one line per network: names of its golden files, and its classifier from published arguments
NETWORKS = [("acmix_resnet*.json", build_acmix_resnet)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((golden, build_classifier), id=stem)
        for pattern, build_classifier in NETWORKS
        for stem, golden in golden_files(pattern)
    ],
)
def published(request):
    """A golden file, and the classifier with its weights."""
    golden, build_classifier = request.param
    torch.manual_seed(0)
    classifier = build_classifier(**golden["arguments"]).eval()
    load_published(classifier, published_weights(golden))
    return golden, classifier


def test_entries_map_one_to_one_onto_the_published_ones(published):
    golden, classifier = published
    backbone = classifier.backbone
    renamed = [rename(name, backbone.rename_rules) for name, _, _ in golden["entries"]]
    names = [
        name if name.startswith(backbone.classifier_parts) else f"backbone.{name}"
        for name in renamed
    ]
    assert len(set(names)) == len(names)
    shapes = {name: entry[1] for name, entry in zip(names, golden["entries"], strict=True)}
    own = {name: list(x.shape) for name, x in classifier.state_dict().items()}
    assert own == shapes
    assert sum(p.numel() for p in classifier.parameters()) == golden["parameters"]


def test_loading_gives_every_entry_its_published_value(published):
    golden, classifier = published
    weights = published_weights(golden)
    own = classifier.state_dict()
    for name, value in weights.items():
        renamed = rename(name, classifier.backbone.rename_rules)
        prefix = "" if renamed in own else "backbone."
        assert torch.equal(own[prefix + renamed], value)


def test_features_and_logits_are_the_published_ones(published):
    golden, classifier = published
    for case in golden["cases"]:
        images = make_input(case["shape"], case["seed"])
        with torch.no_grad():
            compare(classifier.backbone(images), case["features"])
            compare([classifier(images, mode="tensor")], [case["logits"]])


def test_normalisation_has_the_published_eps(published):
    golden, classifier = published
    own = {name: m.eps for name, m in classifier.backbone.named_modules() if hasattr(m, "eps")}
    assert own == golden["norm_eps"]

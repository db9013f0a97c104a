"""The command that makes golden files gives what the golden tests compare with."""

import json
import runpy
import sys

import pytest
import torch
from golden.fill import compare, fill_, make_input
from golden.make import describe
from helpers import golden_files, published_weights
from torch import nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from hybrid_backbones.backbones import ACmixResNet, SwiftFormer
from hybrid_backbones.checkpoints import load_published

LAYERS = ["layer1", "layer2", "layer3", "layer4"]


@pytest.fixture
def make_golden(repository, monkeypatch, tmp_path):
    """Run the command; return the file that it has written."""

    def run(*arguments, out=tmp_path / "golden.json"):
        monkeypatch.setattr(
            sys, "argv", ["make_golden.py", *map(str, arguments), "--out", str(out)]
        )
        runpy.run_path(str(repository / "tools" / "make_golden.py"), run_name="__main__")
        return json.loads(out.read_text())

    return run


def test_our_acmix_resnet_makes_the_golden_file_of_the_published_one(make_golden):
    ((_, golden),) = golden_files("acmix_resnet26.json")
    case = golden["cases"][1]
    made = make_golden(
        *("hybrid_backbones.backbones.ACmixResNet", "--arguments", '{"depth": 26}'),
        *("--shape", *case["shape"], "--seed", case["seed"]),
    )
    # a backbone has no classifier; all other names are the published ones
    assert made["entries"] == [e for e in golden["entries"] if not e[0].startswith("fc.")]
    assert made["norm_eps"] == golden["norm_eps"]
    network = fill_(ACmixResNet(depth=26).eval())
    assert made["parameters"] == sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        maps = network(make_input(case["shape"], case["seed"]))
    compare(maps, case["features"])
    compare(maps, made["cases"][0]["features"], tol=1e-6)


def test_weights_of_a_made_file_give_its_features(make_golden, repository):
    config = repository / "configs" / "imagenet_swiftformer_xs.py"
    options = '{"model.backbone.out_indices": [0, 1, 2, 3], "model.backbone.out_norm": "none"}'
    shapes = ("--shape", 1, 3, 64, 96, "--shape", 2, 3, 64, 64)
    made = make_golden(config, "--arguments", options, *shapes, "--seed", 3)
    assert (made["model"], made["source"]) == ("SwiftFormer", str(config))
    network = SwiftFormer(arch="xs", out_norm="none").eval()
    load_published(network, published_weights(made))
    assert [case["shape"] for case in made["cases"]] == [[1, 3, 64, 96], [2, 3, 64, 64]]
    for case in made["cases"]:
        with torch.no_grad():
            compare(network(make_input(case["shape"], case["seed"])), case["features"])


def test_named_modules_give_features_beside_logits():
    (case,) = describe(resnet18(), [(1, 3, 64, 96)], features=LAYERS)["cases"]
    network = fill_(resnet18().eval())
    images = make_input((1, 3, 64, 96))
    with torch.no_grad():
        maps = create_feature_extractor(network, LAYERS)(images)
        compare([maps[name] for name in LAYERS], case["features"])
        compare([network(images)], [case["logits"]])


def test_features_are_taken_before_later_modules_change_them():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    (case,) = describe(layers, [(1, 3, 8, 8)], features=["0"])["cases"]
    with torch.no_grad():
        compare([layers[0](make_input((1, 3, 8, 8)))], case["features"])


def test_skipped_entries_keep_the_value_they_have():
    network = nn.Conv2d(3, 4, 1)
    bias = network.bias.detach().clone()
    assert describe(network, [(1, 3, 2, 2)], skip=["bias"])["skip"] == ["bias"]
    assert torch.equal(network.bias, bias)
    assert torch.equal(network.weight, fill_(nn.Conv2d(3, 4, 1)).weight)


def test_outputs_that_are_not_finite_are_refused():
    class Overflowing(nn.Identity):
        def forward(self, images):
            return [images, dict(logits=images / 0)]

    with pytest.raises(ValueError, match=r"output of shape \(1, 3, 4, 4\) is not finite"):
        describe(Overflowing(), [(1, 3, 4, 4)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hybrid_backbones.backbones.Unknown"], "Unknown"),
        (["torchvision.models.resnet18", "--arguments", '{"depth": 3}'], "depth"),
        (["torchvision.models.resnet18", "--features", "layer9"], "no module layer9"),
    ],
    ids=["import-path", "arguments", "features"],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    make_golden, tmp_path, capsys, arguments, message
):
    with pytest.raises(SystemExit) as stop:
        make_golden(*arguments, "--shape", 1, 3, 32, 32)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not [*tmp_path.iterdir()]


def test_a_file_that_exists_is_not_overwritten(make_golden, tmp_path, capsys):
    (tmp_path / "golden.json").write_text("kept")
    with pytest.raises(SystemExit):
        make_golden("torchvision.models.resnet18", "--shape", 1, 3, 32, 32)
    assert "must be a new file" in capsys.readouterr().err
    assert (tmp_path / "golden.json").read_text() == "kept"

"""The command that exports: what it writes predicts the same, and mistakes are one line."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from export_cases import small_binary_segmentor, small_classifier, small_segmentor
from mmengine.registry import MODELS, DefaultScope

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra deploy")

SMALL = ("small.py", "small.pth")


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with DefaultScope.overwrite_default_scope(None):
        yield


def export(repository, monkeypatch, *arguments):
    # compilers take a minute
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments), "--no-compile"])
    runpy.run_path(str(repository / "tools/export.py"), run_name="__main__")


@pytest.fixture
def model(repository, tmp_path):
    """A small SwiftFormer: the model and its config, saved as small.py and small.pth."""
    return small_classifier(repository, tmp_path)


def test_a_classifier_takes_images_of_8_bits(repository, model, monkeypatch, capsys):
    network, cfg = model
    export(repository, monkeypatch, *SMALL, "small.onnx", "--size", 64, 96)
    printed = capsys.readouterr().out
    assert "saved to small.onnx: ONNX, opset 18" in printed
    assert "largest error of probabilities" in printed
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    session = onnxruntime.InferenceSession("small.onnx")
    logits, probabilities = session.run(None, {"images": images.numpy()})
    # the hosts' own preprocessing takes BGR
    settings = cfg.get("data_preprocessor") or cfg.model.data_preprocessor
    network.data_preprocessor = MODELS.build(dict(settings, type="ClsDataPreprocessor"))
    inputs = network.data_preprocessor(dict(inputs=images.flip(1)))["inputs"]
    with torch.no_grad():
        expected = network(inputs, mode="tensor")
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["hybrid_backbones.classes"]) == list("abcdef")
    assert len(json.loads(kept["hybrid_backbones.checkpoint_sha256"])) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("small.py", "small.pth", "small.txt"), "must end with .onnx or .pt2"),
        (("small.py", "nowhere.pth", "a.onnx"), "no checkpoint at 'nowhere.pth'"),
        (("small.py", "other.pth", "a.onnx"), "missing"),
        (("small.py", "small.pth", "mine.onnx"), "mine.onnx exists: choose another name"),
    ],
)
def test_a_mistake_is_one_line(repository, model, tmp_path, monkeypatch, arguments, message):
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), "other.pth")
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(SystemExit) as error:
        export(repository, monkeypatch, *arguments)
    assert message in error.value.code
    assert "\n" not in error.value.code
    assert not (tmp_path / "a.onnx").exists()
    assert (tmp_path / "mine.onnx").read_text() == "mine"


@pytest.mark.parametrize("make", [small_segmentor, small_binary_segmentor])
def test_a_segmentor_gives_the_label_map_of_the_framework(repository, monkeypatch, tmp_path, make):
    model, _ = make(repository, tmp_path)
    export(repository, monkeypatch, *SMALL, "small.onnx", "--size", 64, 96)
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    session = onnxruntime.InferenceSession("small.onnx")
    (labels,) = session.run(None, {"images": images.numpy()})
    sample = model.test_step(dict(inputs=[images[0].flip(0)], data_samples=None))[0]
    expected = sample.pred_sem_seg.data.numpy()
    assert len(np.unique(expected)) > 1
    assert labels.shape == expected.shape == (1, 64, 96)
    assert (labels != expected).mean() < 1e-3

"""Exported files are run on pictures without PyTorch, and give what the framework gives."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from PIL import Image
from torch import nn

import hybrid_backbones
from hybrid_backbones.deploy import export_onnx, run, runtime
from hybrid_backbones.deploy.runtime import PICKLES, paste_masks

pytest.importorskip("onnxruntime", reason="needs the extra deploy")
PREPROCESSING = dict(input="RGB", resize=None)


class Classifier(nn.Module):
    """Which colour is brightest, and how bright is each."""

    def forward(self, images):
        means = images.float().mean((2, 3))
        return means, means.softmax(1)


class Segmentor(nn.Module):
    """Which colour is brightest at each pixel."""

    def forward(self, images):
        return (images.float().argmax(1),)


class Detector(nn.Module):
    """Two boxes; the mask of the second is its left half."""

    def forward(self, images):
        boxes = torch.tensor([[1.0, 2, 9, 6], [4, 0, 12, 8]]) + 0 * images.float().mean()
        masks = torch.stack([torch.ones(28, 28), (torch.arange(28) < 14).expand(28, 28).float()])
        return boxes, torch.tensor([2, 0]), torch.tensor([0.9, 0.8]), masks


TASKS = dict(
    classify=(Classifier(), ("logits", "probabilities")),
    segment=(Segmentor(), ("labels",)),
    detect=(Detector(), ("boxes", "labels", "scores", "masks")),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each task, with the classes red, green, blue."""
    folder, written = tmp_path_factory.mktemp("files"), {}
    for task, (model, names) in TASKS.items():
        for ending in ("onnx", "pt2"):
            written[task, ending] = folder / f"{task}.{ending}"
            export_onnx(
                model,
                written[task, ending],
                (8, 12),
                example=lambda *shape: torch.randint(
                    256, (shape[0], 3, *shape[1:]), dtype=torch.uint8
                ),
                output_names=names,
                metadata=dict(
                    task=task, classes=["red", "green", "blue"], preprocessing=PREPROCESSING
                ),
                force=True,
            )
    return written


@pytest.fixture
def pixels():
    pixels = np.full((8, 12, 3), 10, np.uint8)
    pixels[:, 6:, 1] = 250
    pixels[:, :6, 2] = 200
    return pixels


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_outputs_are_named_and_have_no_batch(files, pixels, ending):
    found = run(files["classify", ending], pixels)
    np.testing.assert_allclose(found["logits"], pixels.mean((0, 1)), rtol=1e-5)
    assert found["probabilities"].shape == (3,)
    assert found["classes"][found["probabilities"].argmax()] == "green"
    labels = run(files["segment", ending], pixels)["labels"]
    assert np.array_equal(labels, pixels.argmax(2))
    found = run(files["detect", ending], pixels)
    assert found["names"].tolist() == ["blue", "red"]
    assert found["boxes"].shape == (2, 4)
    assert found["masks"].dtype == bool
    # whole boxes in the image, and the left half of the second
    expected = np.zeros((2, 8, 12), bool)
    expected[0, 2:6, 1:9] = True
    expected[1, :, 4:8] = True
    assert np.array_equal(found["masks"], expected)


def test_an_image_file_is_decoded_as_by_the_tools(files, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90° clockwise to look at it
    turned = Image.fromarray(pixels).rotate(90, expand=True)
    turned.save(tmp_path / "turned.png", exif=exif)
    labels = run(files["segment", "onnx"], tmp_path / "turned.png")["labels"]
    assert np.array_equal(labels, pixels.argmax(2))


def test_masks_are_pasted_as_by_mmdet():
    random = np.random.default_rng(0)
    size, num = (61, 83), 40
    masks = random.random((num, 28, 28), dtype=np.float32)
    centres, sides = random.random((num, 2)) * size[::-1], random.random((num, 2)) * 50 + 0.01
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], 1)
    boxes = boxes.clip(0, size[::-1] * 2).astype(np.float32)
    expected = np.zeros((num, *size), bool)
    for i in range(num):
        pasted, where = _do_paste_mask(
            torch.tensor(masks[i])[None, None], torch.tensor(boxes[i])[None], *size
        )
        expected[i, where[0], where[1]] = pasted[0] >= 0.5
    assert expected.any((1, 2)).sum() > 30
    # the order of additions differs
    assert (paste_masks(masks, boxes, size, 0.5) != expected).mean() < 1e-5
    assert paste_masks(masks[:0], boxes[:0], size, 0.5).shape == (0, *size)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("none.png", r"image none\.png cannot be read"),
        (np.zeros((8, 12, 3)), r"RGB pixels, uint8 \(H, W, 3\), got float64 \(8, 12, 3\)"),
        (np.zeros((8, 12), np.uint8), r"got uint8 \(8, 12\)"),
        (np.zeros((3, 8, 12), np.uint8), r"got uint8 \(3, 8, 12\)"),
        (np.zeros((12, 8, 3), np.uint8), r"takes images of 8x12 pixels .*, got 12x8: resize"),
    ],
)
def test_an_image_that_does_not_fit_is_one_line(files, image, message):
    with pytest.raises(ValueError, match=message):
        run(files["classify", "onnx"], image)


class Command:
    """What runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_that_is_pickled_in_a_program_does_not_run(files, pixels, tmp_path, monkeypatch):
    content = io.BytesIO()
    torch.save(Command(f"touch {tmp_path / 'ran'}"), content)
    with (
        zipfile.ZipFile(files["classify", "pt2"]) as old,
        zipfile.ZipFile(tmp_path / "trap.pt2", "w") as new,
    ):
        for name in old.namelist():
            is_inputs = "sample_inputs" in name
            new.writestr(name, content.getvalue() if is_inputs else old.read(name))
        assert any("sample_inputs" in name for name in old.namelist())
    for name in PICKLES:
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match=r"trap\.pt2 cannot be opened"):
        run(tmp_path / "trap.pt2", pixels)
    assert not (tmp_path / "ran").exists()
    assert [os.environ[name] for name in PICKLES] == ["0", "0"]


def test_a_file_that_cannot_be_run_is_one_line(files, pixels, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no file at .*none\.onnx"):
        run(tmp_path / "none.onnx", pixels)
    for name in ("damaged.onnx", "damaged.pt2"):
        (tmp_path / name).write_text("not a network")
        with pytest.raises(ValueError, match=f"{name} cannot be opened: .") as error:
            run(tmp_path / name, pixels)
        assert "\n" not in str(error.value)
    (tmp_path / "model.pth").touch()
    with pytest.raises(ValueError, match=r"ends with \.onnx or \.pt2, got .*model\.pth"):
        run(tmp_path / "model.pth", pixels)
    export_onnx(Segmentor(), tmp_path / "other.onnx", 8)
    with pytest.raises(ValueError, match=r"other\.onnx does not say what it predicts"):
        run(tmp_path / "other.onnx", pixels)
    with pytest.raises(ValueError, match=r"segment\.onnx takes no sketches"):
        run(files["segment", "onnx"], pixels, sketches=[pixels])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs onnxruntime.*: pip install onnxruntime"):
        run(files["segment", "onnx"], pixels)
    assert runtime.__name__.startswith(hybrid_backbones.__name__)


ALONE = """
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import hybrid_backbones
import hybrid_backbones.deploy as deploy

found = deploy.run(sys.argv[1], sys.argv[2])
refusals = []
for call in (
    lambda: deploy.run(sys.argv[3], sys.argv[2]),
    lambda: deploy.export_onnx,
    lambda: hybrid_backbones.ops,
):
    try:
        call()
    except (ValueError, ImportError) as error:
        refusals.append(str(error))
print(json.dumps([found["labels"].tolist(), found["classes"].tolist(), refusals]))
"""
BLOCKED = {"torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"}
BLOCKED |= {"cv2", "matplotlib", "onnx", "onnxscript", "rich", "safetensors", "huggingface_hub"}


def test_a_file_runs_where_only_numpy_pillow_and_onnxruntime_are(files, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    script = tmp_path / "alone.py"
    script.write_text(ALONE.replace("{BLOCKED}", repr(BLOCKED)))
    root = Path(hybrid_backbones.__file__).parents[1]
    done = subprocess.run(
        [
            *(sys.executable, script, files["segment", "onnx"], tmp_path / "image.png"),
            files["segment", "pt2"],
        ],
        capture_output=True,
        text=True,
        env=dict(PYTHONPATH=str(root)),
    )
    assert done.returncode == 0, done.stderr
    labels, classes, refusals = json.loads(done.stdout)
    assert np.array_equal(labels, pixels.argmax(2))
    assert classes == ["red", "green", "blue"]
    program, *others = refusals
    assert "segment.pt2 needs torch, which cannot be imported" in program
    assert others == ["No module named 'torch'"] * 2

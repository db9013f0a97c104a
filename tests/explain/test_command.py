"""The command that draws what a network looks at: files, numbers, positions, mistakes."""

import runpy
import shutil
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from demo_cases import KINDS, noise, read, save_network
from mmengine.config import Config
from PIL import Image
from tiers import few_of

from hybrid_backbones.explain import attention
from hybrid_backbones.explain import subject as subject_module
from hybrid_backbones.explain.command import explain
from hybrid_backbones.explain.subject import find_subject, read_subjects
from hybrid_backbones.inference.sketch import predict
from hybrid_backbones.locformer.demo import read_sketch
from hybrid_backbones.mini.preset import apply_mini

CLASSIFIER = "imagenet_swiftformer_xs"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that saves a random network of a config, once."""
    return partial(save_network, tmp_path_factory.mktemp("checkpoints"))


def make_image(path, width=64, height=48):
    Image.fromarray(noise(width, height)).save(path)
    return path


def small(repository, kind=CLASSIFIER):
    """Read a config whose network receives images as they are."""
    cfg = read(repository, kind)
    if kind == CLASSIFIER:
        steps = [dict(type="LoadImageStrict"), dict(type="PackInputs")]
        cfg.test_dataloader.dataset.pipeline = steps
    return cfg


def test_pictures_and_numbers_of_one_view(repository, tmp_path, checkpoints):
    cfg, out = small(repository), tmp_path / "new" / "inside"
    checkpoint, image = checkpoints(CLASSIFIER, cfg), make_image(tmp_path / "a b.png")
    before = image.read_bytes()
    written = explain(cfg, image, checkpoint, out, what="attention", at=(40, 17))
    assert sorted(p.name for p in written) == ["attention.npz", "attention.pdf", "attention.png"]
    assert sorted(out.iterdir()) == sorted(written)
    assert image.read_bytes() == before
    # each panel is wide enough to be read
    with Image.open(out / "attention.png") as picture:
        assert picture.width >= 4 * 512
    assert (out / "attention.pdf").read_bytes().startswith(b"%PDF")
    ((_, subject),) = read_subjects(cfg, [image], checkpoint, "cpu", (40, 17))
    with np.load(out / "attention.npz") as numbers:
        assert list(numbers) == [
            f"backbone.stages.{i}.{n}.attn" for i, n in enumerate((2, 2, 5, 3))
        ]
        path = "backbone.stages.1.2.attn"
        expected = attention(subject.model, subject.inputs, path, (40 // 8, 17 // 8))[0]
        assert np.allclose(numbers[path], expected)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_of_one_channel_the_smaller_of_both_classes_is_found(share):
    """mmseg compares the sigmoid with a threshold; the logits of both classes have one sign."""
    logits = torch.full((1, 1, 8, 8), -2.0)
    logits[..., : int(8 * share)] = -1.0
    logits[0, 0, 3, 1] = -0.5
    logits[0, 0, 5, 7] = -3.0
    model = SimpleNamespace(
        encode_decode=lambda *given: logits,
        # between the sigmoids of -2 and -1
        decode_head=SimpleNamespace(threshold=0.2),
        data_preprocessor=SimpleNamespace(),
    )
    sample = SimpleNamespace(metainfo=dict(img_shape=(8, 8)))
    batch = dict(inputs=torch.zeros(1, 3, 8, 8), data_samples=[sample])
    subject = find_subject(model, batch, "mmseg", ["ground", "road"])
    name, place = ("road", (3, 1)) if share < 0.5 else ("ground", (5, 7))
    assert subject.found == f"{name}, 25 % of the image"
    assert subject.position == place


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_file(repository, tmp_path, checkpoints, kind):
    cfg, image = small(repository, kind), make_image(tmp_path / "image.png", 320, 192)
    for to_rgb in (True, False):
        if kind == CLASSIFIER:
            cfg.data_preprocessor.to_rgb = to_rgb
        else:
            cfg.model.data_preprocessor.bgr_to_rgb = to_rgb
            cfg.test_dataloader.dataset.pipeline[1].scale = (320, 192)
        ((_, subject),) = read_subjects(cfg, [image], checkpoints(kind, cfg), "cpu", (9, 8))
        assert subject.pixels.shape == (192, 320, 3)
        assert np.abs(subject.pixels * 255 - noise(320, 192)).max() < 0.01
        assert subject.position == (9, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_a_name_is_refused(repository, tmp_path, monkeypatch, checkpoints, kind):
    cfg, image = small(repository, kind), make_image(tmp_path / "image.png")
    if kind.startswith("maskrcnn"):
        cfg.model.test_cfg.rcnn.score_thr = 0.0
    # whatever is found has none
    monkeypatch.setattr(subject_module, "read_dataset_meta", lambda *_: dict(classes=[]))
    with pytest.raises(ValueError, match=r"names of 0 classes, but class \d+ was predicted"):
        list(read_subjects(cfg, [image], checkpoints(kind, cfg), "cpu"))


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_the_command_draws_all_there_is(repository, tmp_path, monkeypatch, checkpoints, kind):
    monkeypatch.chdir(repository)
    checkpoint = checkpoints(kind, read(repository, kind))
    flags = ["--cfg-options", "test_dataloader.dataset.pipeline.1.scale=(96,64)"]
    command = [
        *("tools/explain.py", make_image(tmp_path / "image.png")),
        *(f"configs/{kind}.py", checkpoint, "--out", tmp_path / "out"),
        *(flags if kind != CLASSIFIER else ()),
    ]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    runpy.run_path("tools/explain.py", run_name="__main__")
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    assert names >= {"attention", "tokens", "cam", "erf", "features", "summary"} - (
        # a detector of random weights may find nothing to explain
        {"cam"} if kind.startswith("maskrcnn") else set()
    )


def test_each_image_of_a_folder_has_its_folder(repository, tmp_path, checkpoints, capsys):
    cfg, folder = small(repository), tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        make_image(folder / name)
    (folder / "notes.txt").write_text("not an image")
    written = explain(cfg, folder, checkpoints(CLASSIFIER, cfg), tmp_path / "out", what="features")
    assert {path.parent.name for path in written} == {"a.png", "b.jpg"}
    assert len(written) == 6
    assert "skipped 1 files that cannot be loaded: notes.txt" in capsys.readouterr().out


def test_images_and_pictures_of_another_command_stay(repository, tmp_path, checkpoints):
    cfg = small(repository)
    checkpoint, image = checkpoints(CLASSIFIER, cfg), make_image(tmp_path / "features.png")
    before = image.read_bytes()
    with pytest.raises(ValueError, match=r"features\.png would be overwritten"):
        explain(cfg, image, checkpoint, tmp_path, what="attention")
    # as the demo leaves it
    out = tmp_path / "drawn"
    out.mkdir()
    (out / "features.png").write_text("drawn before")
    with pytest.raises(ValueError, match=r"drawn/features\.png is a file"):
        explain(cfg, tmp_path, checkpoint, out, what="attention")
    assert image.read_bytes() == before
    assert (out / "features.png").read_text() == "drawn before"


def test_mistakes_end_in_one_line_and_leave_nothing_behind(repository, tmp_path, checkpoints):
    cfg, image = small(repository), make_image(tmp_path / "image.png")
    checkpoint, out = checkpoints(CLASSIFIER, cfg), tmp_path / "out"
    (tmp_path / "file").write_text("kept")
    sketches = read(repository, "locformer_swin_t")
    cases = [
        (dict(what="routes"), "has nothing to show for --what routes: use --what all"),
        (dict(layer="stages.9"), "no --layer stages.9 to look at; there is: backbone.stages.0"),
        (dict(at=(48, 0)), "--at Y X must lie in the 48×64 pixels .* got 48 0"),
        (dict(device="cuda:77"), "--device cuda:77"),
        (dict(image=tmp_path / "none.png"), "no image at"),
        (dict(out=tmp_path / "file"), "is a file: expected a folder"),
        (dict(cfg=sketches), "searches by sketch: say which one by --sketch FILE"),
        (dict(sketches=["a.png"]), "--sketch is for configs that search by sketch"),
        (dict(cfg=sketches, sketches=["a", "b"]), "takes up to 1 sketches, got 2"),
        (dict(cfg=sketches, sketches=["no.png"]), "cannot read the sketch no.png"),
    ]
    for changes, message in cases:
        arguments = dict(cfg=cfg, image=image, checkpoint=checkpoint, out=out) | changes
        with pytest.raises(ValueError, match=message) as error:
            explain(**arguments)
        assert "\n" not in str(error.value)
        assert not out.exists()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.fixture(scope="module")
def asked(repository, mini_root, checkpoints):
    """A function that looks inside a small LocFormer on a folder of images of the mini set."""
    drawn = mini_root / "sketches/ndjson"

    def look(tmp_path, monkeypatch, name, *flags):
        cfg = Config.fromfile(repository / f"configs/{name}.py")
        apply_mini(cfg, mini_root)
        checkpoint, folder = checkpoints(name, cfg), tmp_path / "images"
        folder.mkdir()
        for number in (5, 34):
            shutil.copy(mini_root / f"coco/val2017/{number:012}.png", folder)
        monkeypatch.chdir(repository)
        command = ["explain.py", folder, f"configs/{name}.py", checkpoint, "--mini", *flags]
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--out", str(tmp_path / "out")])
        runpy.run_path("tools/explain.py", run_name="__main__")
        return cfg, folder, checkpoint, drawn

    return look


def test_sketches_are_looked_at(asked, mini_root, tmp_path, monkeypatch):
    names = [str(mini_root / f"sketches/ndjson/{name}.ndjson") for name in ("ring", "ring:3")]
    names = [name.replace(":3.ndjson", ".ndjson:3") for name in names]
    cfg, folder, checkpoint, _ = asked(
        *(tmp_path, monkeypatch, "locformer_swin_t_5sketch"),
        *("--what", "attention", "--at", "40", "30", "--sketch", *names),
    )
    for path in folder.iterdir():
        written = {file.name for file in (tmp_path / "out" / path.name).iterdir()}
        assert written == {"attention.npz", "attention.pdf", "attention.png"}
    sketches = np.concatenate([read_sketch(cfg, name) for name in names])
    image = folder / "000000000034.png"
    ((_, subject),) = read_subjects(cfg, [image], checkpoint, "cpu", (40, 30), sketches)
    assert subject.found.startswith("sketched ")
    with np.load(tmp_path / "out" / image.name / "attention.npz") as numbers:
        fusions = [path for path in numbers if "fusions" in path]
        assert fusions == [f"backbone.fusions.{i}" for i in range(4)]
        assert len([path for path in numbers if path.endswith(".attn")]) == 4
        path = "backbone.fusions.1"
        expected = attention(subject.model, subject.arguments, path, (40 // 8, 30 // 8))[0]
        # two sketches of 2×2 positions, one below the other
        assert expected.shape[1:] == (4, 2)
        assert np.allclose(numbers[path], expected)
        # as the demo draws it
        sketch = read_sketch(cfg, names[0])
        ((_, _, _, heat),) = predict(cfg, [image], sketches, checkpoint, "cpu")
        assert np.allclose(numbers["mean_attention"], heat, atol=1e-6)
        ((_, _, _, other),) = predict(cfg, [image], sketch, checkpoint, "cpu")
        assert not np.allclose(numbers["mean_attention"], other, atol=1e-6)


@pytest.mark.exhaustive
def test_all_there_is_of_a_detector_by_sketch(asked, mini_root, tmp_path, monkeypatch):
    sketch = mini_root / "sketches/ndjson/star.ndjson:2"
    asked(tmp_path, monkeypatch, "locformer_swin_t", "--sketch", sketch)
    for folder in (tmp_path / "out").iterdir():
        names = {path.stem for path in folder.iterdir()}
        assert names == {"attention", "cam", "erf", "features", "summary"}

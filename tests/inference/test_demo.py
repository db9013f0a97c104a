"""Laws of the image demo: what is drawn is what the model sees."""

import runpy
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from demo_cases import FASTER, KINDS, every_form, in_form, noise, read, save_network
from helpers import assert_same_tensors
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from PIL import Image

from hybrid_backbones.datasets.pictures import MAX_ASPECT
from hybrid_backbones.explain.command import explain
from hybrid_backbones.inference import demo as demo_module
from hybrid_backbones.inference.demo import build_pipeline, build_trained, demo, predict
from hybrid_backbones.inference.sketch import sketch_demo
from hybrid_backbones.locformer.demo import sketch_size
from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.playground.models import Model

# where a whole network predicts: the detector takes longest
every_kind_slowly = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if kind.startswith("maskrcnn") else ())
        for kind in KINDS
    ],
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that saves a random network of a config, once."""
    return partial(save_network, tmp_path_factory.mktemp("checkpoints"))


def test_classifiers_see_normalised_images(repository, tmp_path, checkpoints):
    cfg = read(repository, "imagenet_swiftformer_xs")
    # as large as the network's input, so that nothing is resized
    cfg.test_dataloader.dataset.pipeline = [dict(type="LoadImageStrict"), dict(type="PackInputs")]
    Image.fromarray(noise(224, 224)).save(tmp_path / "image.png")
    checkpoint = checkpoints("imagenet_swiftformer_xs", cfg)
    ((_, pixels, found),) = predict(cfg, [tmp_path / "image.png"], checkpoint, "cpu")
    settings = cfg.data_preprocessor
    images = (torch.tensor(pixels) - torch.tensor(settings.mean)) / torch.tensor(settings.std)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(checkpoint)["state_dict"])
    with torch.no_grad():
        expected = model.eval()(images.permute(2, 0, 1)[None]).softmax(-1)[0]
    assert torch.allclose(found.pred_score, expected, rtol=1e-3)
    # the scores depend on the image
    assert expected.max() > 2 * expected.median()


def test_a_model_can_be_built_again_from_the_same_config(repository, tmp_path, mini_root):
    cfg = read(repository, "deformable_detr_swiftformer_xs")
    apply_mini(cfg, mini_root)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(deepcopy(cfg.model))
    # some of mmdet's parameters are memory as it was before
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "model.pth")
    first, second = (build_trained(cfg, tmp_path / "model.pth", "cpu") for _ in range(2))
    assert_same_tensors(first.state_dict(), second.state_dict())


def test_a_turned_photograph_is_seen_and_drawn_upright(repository, tmp_path, checkpoints):
    kind = "fpn_uniformer_xxs"
    cfg = read(repository, kind)
    cfg.test_dataloader.dataset.pipeline = [
        dict(type="LoadImageStrict"),
        dict(type="PackSegInputs"),
    ]
    upright = Image.fromarray(noise(96, 64))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90° clockwise to look at it
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    paths = [tmp_path / "upright.png", tmp_path / "turned.png"]
    assert Image.open(paths[1]).size == (64, 96)
    (_, *one), (_, *other) = predict(cfg, paths, checkpoints(kind, cfg), "cpu")
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[0], np.asarray(upright))
    labels = [found[1].pred_sem_seg.data for found in (one, other)]
    assert torch.equal(*labels)
    assert labels[0].shape == (1, 64, 96)
    assert len(labels[0].unique()) > 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_are_drawn_in_the_colours_of_the_file(repository, tmp_path, checkpoints, mode):
    kind = "imagenet_swiftformer_xs"
    cfg = read(repository, kind)
    picture = Image.new("RGB", (60, 40), (200, 30, 60)).convert(mode)
    path = tmp_path / f"grüße 图 {mode}.tiff"
    picture.save(path)
    ((_, pixels, _),) = predict(cfg, [path], checkpoints(kind, cfg), "cpu")
    assert np.array_equal(pixels, np.asarray(picture.convert("RGB")))


@every_kind_slowly
def test_full_configs_predict_on_images_of_any_proportion(repository, tmp_path, kind, checkpoints):
    cfg = read(repository, kind)
    images = []
    # longer strips are refused when they are loaded
    for size in ((1, 1), (1, MAX_ASPECT), (MAX_ASPECT, 1)):
        images.append(tmp_path / f"{size}.png")
        Image.fromarray(noise(*size)).save(images[-1])
    found = list(predict(cfg, images, checkpoints(kind, cfg), "cpu"))
    assert [path for path, *_ in found] == images
    for path, pixels, prediction in found:
        assert np.array_equal(pixels, np.asarray(Image.open(path)))
        if kind.startswith("fpn"):
            assert prediction.pred_sem_seg.data.shape == (1, *pixels.shape[:2])


@pytest.mark.parametrize(
    "loader",
    [
        dict(imdecode_backend="strict"),
        # of the hosts' own configs
        dict(),
        dict(imdecode_backend="pillow", backend_args=dict(backend="local"), ignore_empty=True),
    ],
    ids=str,
)
def test_each_image_of_a_folder_is_drawn_with_one_model(
    repository, tmp_path, monkeypatch, checkpoints, capsys, loader
):
    kind = "imagenet_swiftformer_xs"
    cfg = read(repository, kind)
    cfg.test_dataloader.dataset.pipeline[0] = dict(type="LoadImageFromFile", **loader)
    folder, out = tmp_path / "images", tmp_path / "new" / "pictures"
    (folder / "subfolder").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "with space.jpg"):
        Image.fromarray(noise(60, 40)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / "Thumbs.db").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:500])
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    loaded = []
    load = demo_module.load_trained
    monkeypatch.setattr(
        demo_module, "load_trained", lambda *args: (loaded.append(args), load(*args))
    )
    written = demo(cfg, folder, checkpoints(kind, cfg), out)
    assert len(loaded) == 1
    assert sorted(path.name for path in written) == ["a.bmp.png", "a.png", "with space.jpg.png"]
    assert sorted(out.iterdir()) == sorted(written)
    assert all(Image.open(path).width >= 512 for path in written)
    skipped = "skipped 3 files that cannot be loaded: Thumbs.db, cut.png, notes.txt"
    assert skipped in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("loader", "dtype", "shape"),
    [
        (dict(), np.uint8, (4, 6, 3)),
        (dict(to_float32=True), np.float32, (4, 6, 3)),
        (dict(color_type="grayscale"), np.uint8, (4, 6)),
        (dict(color_type="unchanged"), np.uint8, (4, 6)),
    ],
    ids=str,
)
def test_images_have_the_kind_of_values_that_the_config_says(
    repository, tmp_path, loader, dtype, shape
):
    cfg = read(repository, "imagenet_swiftformer_xs")
    cfg.test_dataloader.dataset.pipeline[0] = dict(type="LoadImageFromFile", **loader)
    grey = noise(6, 4)[..., :1]
    Image.fromarray(grey[..., 0]).save(tmp_path / "grey.png")
    init_default_scope(cfg.default_scope)
    load, _ = build_pipeline(cfg)
    found = load(dict(img_path=str(tmp_path / "grey.png")))["img"]
    assert (found.dtype, found.shape) == (dtype, shape)
    assert (found.reshape(4, 6, -1) == grey).all()


@every_form
def test_a_config_in_whatever_form_has_one_demo(repository, tmp_path, checkpoints, wrapper, form):
    kind = "imagenet_swiftformer_xs"
    Image.fromarray(noise(60, 40)).save(tmp_path / "image.png")
    plain, cfg = read(repository, kind), in_form(read(repository, kind), wrapper, form)
    checkpoint, drawn = checkpoints(kind, plain), []
    for i, one in enumerate((plain, cfg)):
        (path,) = demo(one, tmp_path / "image.png", checkpoint, tmp_path / f"{i}.bmp")
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]


@every_form
def test_searches_by_sketch_are_known_in_whatever_form(repository, tmp_path, wrapper, form):
    cfg = in_form(read(repository, "locformer_swin_t"), wrapper, form)
    missing = tmp_path / "none.png"
    with pytest.raises(ValueError, match="searches by sketch: use hb sketch-demo"):
        demo(cfg, missing, "none.pth")
    with pytest.raises(ValueError, match="searches by sketch: say which one"):
        explain(cfg, missing, "none.pth", tmp_path)
    with pytest.raises(ValueError, match="no image at"):
        sketch_demo(cfg, missing, "none.png", "none.pth", tmp_path / "out.png")
    assert Model("search", cfg, "none.pth").task == "sketch"
    assert sketch_size(cfg) == 224
    load, rest = build_pipeline(cfg, "RenderSketch")
    steps = [type(step).__name__ for step in (load, *rest.transforms)]
    assert steps == ["LoadImageFromFile", "RoundedResize", "PackSketchInputs"]


def run(repository, monkeypatch, command):
    """Run a tool as the command line does, in this process."""
    tool, *arguments = map(str, command)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    runpy.run_path(str(repository / tool), run_name="__main__")


@every_kind_slowly
def test_the_command_draws_published_weights(repository, tmp_path, monkeypatch, checkpoints, kind):
    monkeypatch.chdir(repository)
    Image.fromarray(noise(64, 48)).save(tmp_path / "image.png")
    checkpoint = checkpoints(kind, read(repository, kind))
    out = tmp_path / "new" / "picture.jpg"
    command = ("tools/image_demo.py", tmp_path / "image.png", f"configs/{kind}.py", checkpoint)
    options = [f"{key}={value}".replace(" ", "") for key, value in FASTER.items()]
    flags = ("--cfg-options", *options) if kind.startswith("maskrcnn") else ()
    run(repository, monkeypatch, (*command, "--out", out, "--score-thr", "0", *flags))
    with Image.open(out) as picture:
        assert picture.width >= 512
        assert len(picture.getcolors(1 << 22)) > 2

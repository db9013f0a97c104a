"""Laws of the image demo: what is drawn is what the model sees, under the right names."""

import runpy
import sys

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.datasets import ImageNet
from mmpretrain.structures import DataSample
from mmseg.datasets import ADE20KDataset
from mmseg.structures import SegDataSample
from PIL import Image

from hybrid_backbones.datasets.pictures import MAX_ASPECT
from hybrid_backbones.inference import demo as demo_module
from hybrid_backbones.inference.demo import build_visualizer, demo, draw, predict, read_dataset_meta
from hybrid_backbones.inference.pictures import ENDINGS, MAX_SIDE, picture_size, resize, write
from hybrid_backbones.mini.preset import apply_mini

# a small network of each kind, with its full config: its data set and the names of that
KINDS = {
    "imagenet_swiftformer_xs": ImageNet,
    "fpn_uniformer_xxs": ADE20KDataset,
    "maskrcnn_uniformer_xxs": CocoDataset,
}
# a smaller size and fewer masks, to save time; else as users have it
FASTER = {
    "test_dataloader.dataset.pipeline.1.scale": (333, 200),
    "model.test_cfg.rcnn.max_per_img": 10,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _alone():
    """Leave the scope as it was."""
    with DefaultScope.overwrite_default_scope(None):
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that saves a random network of a config, once."""
    folder, saved = tmp_path_factory.mktemp("checkpoints"), {}

    def save(kind, cfg):
        if kind not in saved:
            saved[kind] = folder / f"{kind}.pth"
            torch.manual_seed(0)
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                model = MODELS.build(cfg.model)
            for name, weight in model.named_parameters():
                # so that labels and scores differ, although features hardly do
                if name.endswith(("fc.weight", "fc_cls.weight", "conv_seg.weight")):
                    torch.nn.init.normal_(weight, std=100)
            torch.save(dict(state_dict=model.state_dict()), saved[kind])
        return saved[kind]

    return save


def read(repository, kind):
    cfg = Config.fromfile(repository / f"configs/{kind}.py")
    cfg.model.backbone.init_cfg = None
    if kind.startswith("maskrcnn"):
        cfg.merge_from_dict(FASTER)
    return cfg


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def visualizer_of(cfg, tmp_path, **meta):
    """Return the visualizer for a checkpoint of these meta data."""
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict={"a": torch.zeros(1)}, **meta), tmp_path / "some.pth")
    return build_visualizer(cfg, tmp_path / "some.pth")


def sample_of(kind, width, height, label=0):
    """Return a prediction of a label: one box and mask, or everywhere."""
    if kind.startswith("imagenet"):
        return DataSample().set_pred_label(label).set_pred_score(torch.ones(label + 1))
    if kind.startswith("fpn"):
        labels = torch.full((1, height, width), label)
        return SegDataSample(pred_sem_seg=PixelData(data=labels))
    box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = True
    objects = InstanceData(
        bboxes=box, masks=mask, scores=torch.tensor([0.9]), labels=torch.tensor([label])
    )
    return DetDataSample(pred_instances=objects)


@every_kind
@pytest.mark.parametrize(
    "content",
    [{}, dict(meta=None), dict(meta={}), dict(meta=dict(dataset_meta=None)), dict(meta="text")],
    ids=str,
)
def test_a_checkpoint_that_names_no_classes_gets_those_of_the_data_set(
    repository, tmp_path, kind, content
):
    found = visualizer_of(read(repository, kind), tmp_path, **content).dataset_meta
    expected = KINDS[kind].METAINFO
    assert found["classes"] == list(expected["classes"])
    assert len(found["palette"]) == len(found["classes"])
    if "palette" in expected:
        assert [list(color) for color in found["palette"]] == list(map(list, expected["palette"]))


def test_names_in_the_checkpoint_come_before_those_in_the_config(repository, tmp_path):
    cfg = read(repository, "maskrcnn_uniformer_xxs")
    meta = dict(classes=("cat", "dog"), palette=[(1, 2, 3), (4, 5, 6)])
    found = visualizer_of(cfg, tmp_path, meta=dict(dataset_meta=meta)).dataset_meta
    assert found == dict(meta, classes=["cat", "dog"])


@every_kind
def test_names_in_the_config_are_taken(repository, mini_root, tmp_path, kind):
    cfg = read(repository, kind)
    apply_mini(cfg, mini_root)
    found = visualizer_of(cfg, tmp_path).dataset_meta
    assert found["classes"] == list(cfg.test_dataloader.dataset.metainfo.classes)
    assert {"star", "ring"} <= set(found["classes"])


@pytest.mark.parametrize("palette", [None, [], [(1, 2, 3)], "random"], ids=str)
def test_each_class_has_a_colour(repository, tmp_path, palette):
    meta = dict(dataset_meta=dict(classes=["a", "b"], palette=palette))
    torch.save(dict(state_dict={}, meta=meta), tmp_path / "some.pth")
    cfg = read(repository, "fpn_uniformer_xxs")
    colors = read_dataset_meta(cfg, tmp_path / "some.pth")["palette"]
    assert len(set(colors)) == 2


@every_kind
def test_a_class_without_a_name_is_refused(repository, tmp_path, kind):
    meta = dict(dataset_meta=dict(classes=["a", "b"]))
    visualizer = visualizer_of(read(repository, kind), tmp_path, meta=meta)
    draw(visualizer, noise(40, 30), sample_of(kind, 40, 30, label=1), 0.3)
    with pytest.raises(ValueError, match="names of 2 classes, but class 2 was predicted"):
        draw(visualizer, noise(40, 30), sample_of(kind, 40, 30, label=2), 0.3)


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


def test_pictures_are_wide_enough_for_text_and_never_too_large():
    rng = np.random.default_rng(0)
    for height, width in np.exp(rng.uniform(0, np.log(20000), (300, 2))).astype(int).tolist():
        new_height, new_width = picture_size(height, width)
        assert max(new_height, new_width) <= MAX_SIDE
        # as wide as text needs, unless that would be too long
        assert new_width >= 512 or max(new_height, new_width) > MAX_SIDE / 2
        if new_width > width:
            assert (new_height % height, new_width % width) == (0, 0)
    assert picture_size(96, 128) == (384, 512)
    assert picture_size(480, 640) == (480, 640)


def test_enlarging_repeats_each_pixel_and_pads_with_white():
    pixels = noise(128, 3)
    canvas = resize(pixels, picture_size(3, 128), fill=255)
    assert np.array_equal(canvas[:12], pixels.repeat(4, axis=0).repeat(4, axis=1))
    assert canvas.shape == (64, 512, 3)
    assert (canvas[12:] == 255).all()


@pytest.mark.parametrize("size", [(128, 96), (1000, 700), (6000, 1500)], ids=str)
def test_boxes_and_masks_fit_the_drawn_image(repository, tmp_path, size):
    kind = "maskrcnn_uniformer_xxs"
    meta = dict(dataset_meta=dict(classes=["thing"], palette=[(255, 0, 0)]))
    visualizer = visualizer_of(read(repository, kind), tmp_path, meta=meta)
    grey = np.full((*size[::-1], 3), 128, dtype=np.uint8)
    drawn = draw(visualizer, grey, sample_of(kind, *size), 0.3)
    assert drawn.shape[:2] == picture_size(*size[::-1])
    changed = np.argwhere((drawn != 128).any(axis=2)) / drawn.shape[:2]
    # lines are some pixels wide
    slack = 6 / np.array(drawn.shape[:2])
    assert (abs(changed.min(axis=0) - 0.25) <= slack).all()
    assert (abs(changed.max(axis=0) - 0.75) <= slack).all()
    untouched = draw(visualizer, grey, sample_of(kind, *size), 0.95)
    assert (untouched == 128).all()


@every_kind
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (5000, 7), (128, 96)], ids=str)
def test_pictures_of_any_proportion_can_be_drawn(repository, tmp_path, kind, size):
    visualizer = visualizer_of(read(repository, kind), tmp_path)
    drawn = draw(visualizer, noise(*size), sample_of(kind, *size), 0.3)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] >= 512
    # beside a map stands its legend, whose text grows with large pictures
    assert max(drawn.shape) <= 1.5 * MAX_SIDE
    assert len(Image.fromarray(drawn).getcolors(1 << 24)) > 2


@every_kind
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


def test_each_image_of_a_folder_is_drawn_with_one_model(
    repository, tmp_path, monkeypatch, checkpoints, capsys
):
    kind = "imagenet_swiftformer_xs"
    cfg = read(repository, kind)
    folder, out = tmp_path / "images", tmp_path / "new" / "pictures"
    (folder / "subfolder").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "with space.jpg"):
        Image.fromarray(noise(60, 40)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
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
    assert "skipped 2 files that cannot be loaded: cut.png, notes.txt" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("ending", [*ENDINGS, ".PNG"])
def test_each_ending_that_is_offered_can_be_written(tmp_path, ending):
    pixels = np.full((64, 512, 3), (200, 30, 60), dtype=np.uint8)
    out = tmp_path / "new" / f"grüße 图{ending}"
    write(pixels, out)
    with Image.open(out) as picture:
        found = np.asarray(picture.convert("RGB")).astype(int)
    # some lose a little
    assert abs(found - pixels).max() <= 8


def run(repository, monkeypatch, command):
    """Run a tool as the command line does, in this process."""
    tool, *arguments = map(str, command)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    runpy.run_path(str(repository / tool), run_name="__main__")


@every_kind
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

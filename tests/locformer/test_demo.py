"""Laws of the sketch demo: how sketches are read, where they attend, what is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image

from hybrid_backbones.inference.sketch import predict, sketch_demo
from hybrid_backbones.locformer.demo import (
    attention_to_strokes,
    draw,
    mean_attention,
    read_drawing,
    read_picture,
    read_sketch,
)
from hybrid_backbones.locformer.quickdraw import DrawingFile, render_drawing
from hybrid_backbones.mini.preset import apply_mini

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "locformer_swin_t.py"


@pytest.fixture(scope="module")
def mini(mini_root, tmp_path_factory):
    """The config, the folder of the mini set, and a checkpoint that knows nothing."""
    cfg = Config.fromfile(CONFIG)
    apply_mini(cfg, mini_root)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "epoch_1.pth"
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return cfg, mini_root, checkpoint


def test_drawings_are_counted_from_0(mini):
    path = mini[1] / "sketches/ndjson/star.ndjson"
    file = DrawingFile(path)
    for name, index in ((str(path), 0), (f"{path}:0", 0), (f"{path}:7", 7)):
        assert all(map(np.array_equal, read_drawing(name), file[index]))


def test_a_drawing_that_is_not_there_is_named(mini):
    path = mini[1] / "sketches/ndjson/star.ndjson"
    for index in ("120", "-1", "1.0", "x", ""):
        with pytest.raises(ValueError, match=rf"120 drawings.*0 to 119, got '{index}'"):
            read_drawing(f"{path}:{index}")
    with pytest.raises(ValueError, match=r"cat\.ndjson"):
        read_drawing("nowhere/cat.ndjson:3")
    with pytest.raises(ValueError, match=r"expected FILE\.ndjson.*got cat\.png"):
        read_drawing("cat.png")


def test_dark_on_light_is_light_on_dark(tmp_path):
    strokes = [np.array([[20, 200, 200], [20, 20, 180]])]
    white_on_black = render_drawing(strokes)
    pictures = dict(
        dark=Image.fromarray(255 - white_on_black),
        light=Image.fromarray(white_on_black),
        coloured=Image.fromarray(255 - white_on_black).convert("RGB"),
    )
    pictures["clear"] = Image.new("RGBA", (224, 224), "black")
    pictures["clear"].putalpha(Image.fromarray(white_on_black))
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_picture(tmp_path / f"{name}.png"), white_on_black), name


@pytest.mark.parametrize("size", [(1000, 400), (30, 60)])
def test_a_picture_of_any_size_keeps_its_proportions_and_its_white(tmp_path, size):
    picture = Image.new("L", size, 255)
    picture.paste(200, (5, 5, size[0] - 5, size[1] - 5))
    picture.save(tmp_path / "sketch.png")
    pixels = read_picture(tmp_path / "sketch.png", 64)
    assert pixels.shape == (64, 64)
    assert pixels.max() == 255
    height, width = (np.ptp(found) + 1 for found in np.nonzero(pixels > 128))
    assert width / height == pytest.approx(size[0] / size[1], rel=0.25)


def test_what_is_no_sketch_is_named(tmp_path):
    Image.new("L", (50, 50), 255).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("empty", "text", "missing"):
        with pytest.raises(ValueError, match=rf"{name}\.png"):
            read_picture(tmp_path / f"{name}.png")


def test_the_map_shows_where_strokes_are_seen_from():
    weights = torch.full((1, 5, 6, 2, 2), 0.25)
    # one place of the image looks at the cell with ink, another at one without
    weights[0, 3, 4] = torch.tensor([[0.97, 0.01], [0.01, 0.01]])
    weights[0, 1, 1] = torch.tensor([[0.01, 0.97], [0.01, 0.01]])
    found = attention_to_strokes(weights, torch.tensor([[[9.0, 0.0], [0.0, 0.0]]]))
    assert found.shape == (5, 6)
    assert found.argmax() == 3 * 6 + 4
    assert found[1, 1] == found.min() == 0
    assert found.max() == 1


def test_the_mean_over_stages_lies_on_the_image():
    weights = []
    for stride in (4, 8):
        stage = torch.full((1, 32 // stride, 48 // stride, 2, 2), 0.25)
        stage[0, 20 // stride, 40 // stride] = torch.tensor([[0.97, 0.01], [0.01, 0.01]])
        weights.append(stage)
    heat = mean_attention(weights, torch.tensor([[[9.0, 0.0], [0.0, 0.0]]]), (30, 46))
    assert heat.shape == (30, 46)
    highest = np.unravel_index(heat.argmax(), heat.shape)
    # between the centres of these cells in both stages
    assert np.all(np.abs(np.subtract(highest, (21, 43))) <= 2)


@pytest.mark.parametrize("kind", ["drawing", "picture"])
def test_the_picture_shows_sketch_image_and_map(mini, kind, tmp_path):
    cfg, root, checkpoint = mini
    sketch = str(root / "sketches/ndjson/star.ndjson:3")
    if kind == "picture":
        sketch = str(tmp_path / "star.png")
        Image.fromarray(
            255 - render_drawing(read_drawing(f"{root}/sketches/ndjson/star.ndjson"))
        ).save(sketch)
    image = root / "coco/val2017/000000000005.png"
    out = tmp_path / "new" / "found.png"
    assert sketch_demo(cfg, image, sketch, checkpoint, out, score_thr=0.0) == [out]
    sketches = read_sketch(cfg, sketch)
    ((_, pixels, prediction, _),) = predict(cfg, [image], sketches, checkpoint, "cpu")
    with Image.open(image) as picture:
        width, height = picture.size
        assert np.array_equal(pixels, np.asarray(picture))
    boxes = prediction.pred_instances.bboxes
    assert len(boxes) == cfg.model.test_cfg.max_per_img
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    with Image.open(out) as drawn:
        assert drawn.width > 2 * drawn.height
        colours = drawn.convert("RGB").getcolors(1 << 22)
    # of the boxes
    assert (255, 0, 0) in {colour for _, colour in colours}


@pytest.mark.parametrize("size", [(64, 48), (48, 96)], ids=["wide", "tall"])
@pytest.mark.parametrize("place", [(0, 0), (0.95, 0.02), (0.1, 0.5)], ids=str)
def test_scores_stay_within_the_image(size, place):
    image = np.full((*size[::-1], 3), (0, 0, 255), dtype=np.uint8)
    start = torch.tensor(place) * torch.tensor(size)
    boxes = torch.cat([start, torch.tensor(size) - 1.0])[None]
    found = InstanceData(bboxes=boxes, scores=torch.tensor([0.87]))
    prediction = BaseDataElement(pred_instances=found)
    pixels = draw(image, np.zeros((8, 8)), prediction, np.zeros(size[::-1]), 0.3)
    red, blue = (np.argwhere((pixels == x).all(axis=2)) for x in ((255, 0, 0), (0, 0, 255)))
    # half of the line's width
    assert (red.min(axis=0) >= blue.min(axis=0) - 2).all()
    assert (red.max(axis=0) <= blue.max(axis=0) + 2).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 4)], ids=str)
def test_a_box_around_an_image_ends_with_it(size):
    image = np.full((*size[::-1], 3), (0, 0, 255), dtype=np.uint8)
    found = InstanceData(bboxes=torch.tensor([[0, 0, *size]]), scores=torch.tensor([0.87]))
    prediction = BaseDataElement(pred_instances=found)
    pixels = draw(image, np.zeros((8, 8)), prediction, np.zeros(size[::-1]), 0.3)
    red, blue = (np.argwhere((pixels == x).all(axis=2)) for x in ((255, 0, 0), (0, 0, 255)))
    # the line, which is some pixels wide
    assert (abs(red.min(axis=0) - blue.min(axis=0)) <= 4).all()
    assert (abs(red.max(axis=0) - blue.max(axis=0)) <= 4).all()


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (128, 96), (4000, 3000)], ids=str)
def test_pictures_have_a_size_to_look_at(size):
    none = BaseDataElement(
        pred_instances=InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0))
    )
    image = np.zeros((*size[::-1], 3), dtype=np.uint8)
    height, width = draw(image, np.zeros((8, 8)), none, np.zeros(size[::-1]), 0.3).shape[:2]
    assert 400 <= height <= 1300
    # a sketch, and the image twice
    assert 2.5 * 512 <= width <= 3000


def test_each_image_of_a_folder_is_searched(mini, tmp_path):
    cfg, root, checkpoint = mini
    (tmp_path / "images").mkdir()
    for name in ("one.png", "two.png"):
        image = root / "coco/val2017/000000000005.png"
        (tmp_path / "images" / name).write_bytes(image.read_bytes())
    (tmp_path / "images/notes.txt").write_text("not an image")
    sketch = str(root / "sketches/ndjson/star.ndjson")
    written = sketch_demo(cfg, tmp_path / "images", sketch, checkpoint, tmp_path / "found")
    assert written == [tmp_path / "found/one.png", tmp_path / "found/two.png"]
    assert len({path.read_bytes() for path in written}) == 1


def test_a_config_without_sketches_is_refused(mini):
    cfg = Config.fromfile(CONFIG.with_name("retinanet_r50.py"))
    with pytest.raises(ValueError, match="see hb demo"):
        sketch_demo(cfg, "image.png", "sketch.png", mini[2], "out.png")

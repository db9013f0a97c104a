"""The models of the page and its pictures, without a browser."""

import threading
from importlib import import_module
from inspect import isgeneratorfunction

import gradio as gr
import numpy as np
import pytest
import torch
from demo_cases import noise
from mmengine.config import Config
from PIL import Image

from hybrid_backbones.playground import detect, inside
from hybrid_backbones.playground.detect import find, to_html
from hybrid_backbones.playground.handlers import reporting
from hybrid_backbones.playground.images import MAX_SIDE, Picture, read_upload
from hybrid_backbones.playground.inside import enlarge, look, place_of, prepare
from hybrid_backbones.playground.models import Model, Models
from hybrid_backbones.playground.sketch import sample_sketch


def picture_of(width, height):
    return Picture(noise(width, height), "")


def test_tasks_follow_from_the_configs(models):
    assert [model.task for model in models[:5]] == [
        *("classify", "segment", "detect", "classify", "sketch")
    ]
    assert [model.name for model in models.of("detect", "sketch")] == [
        *("maskrcnn_uniformer_xxs", "locformer_swin_t")
    ]
    assert models.named("locformer_swin_t").task == "sketch"


def test_models_need_names_of_their_own_and_a_known_framework(models):
    with pytest.raises(ValueError, match="two models have the name imagenet_swiftformer_xs"):
        Models([models[0], models[0]])
    with pytest.raises(ValueError, match="There is no model other"):
        models.named("other")
    cfg = Config(dict(models[0].cfg, default_scope="mmrotate"))
    with pytest.raises(ValueError, match="default_scope of x must be one of"):
        Model("x", cfg, "none.pth")


def test_a_model_is_loaded_once_and_used_by_one_request_at_a_time(models, monkeypatch):
    model, seen, inside = models[0], [], []
    picture = picture_of(64, 64)

    def use():
        with model.in_use() as loaded:
            seen.append(loaded.net)
            inside.append(1)
            assert len(inside) == 1
            threading.Event().wait(0.05)
            inside.pop()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert all(net is seen[0] for net in seen)
    assert find(model, picture, 0.3).rows == find(model, picture, 0.3).rows


def test_a_model_whose_loading_failed_can_be_used_later(models, tmp_path):
    source = models[0]
    model = Model("later", source.cfg, tmp_path / "later.pth")
    with pytest.raises(ValueError, match="no checkpoint at"), model.in_use():
        pass
    (tmp_path / "later.pth").write_bytes(source.checkpoint.read_bytes())
    assert find(model, picture_of(64, 64), 0.3).rows == find(source, picture_of(64, 64), 0.3).rows


def test_what_is_found_is_what_the_model_predicts(models):
    picture = picture_of(96, 64)
    classes = find(models[0], picture, 0.3)
    assert len(classes.rows) == 5
    segments = find(models[1], picture, 0.3)
    assert sum(float(row[1].split()[0]) for row in segments.rows) == pytest.approx(100, abs=0.5)
    objects = [find(models[2], picture, threshold).rows for threshold in (0.0, 0.5, 1.0)]
    assert len(objects[0]) >= len(objects[1]) > 0
    assert objects[1] == [row for row in objects[0] if float(row[1]) >= 0.5]
    assert all(0 <= float(row[1]) <= 1 for row in objects[0])
    assert find(models[2], picture, 1.01).rows == []
    for result in (classes, segments):
        assert result.drawn.shape[1] >= 512
        assert len(result.colours) == len(result.rows)


def test_names_of_classes_cannot_become_code_of_the_page(models):
    result = find(models[0], picture_of(64, 64), 0.3)
    result.rows[0][0] = "<script>alert(1)</script>"
    text = to_html("<b>", result._replace(words="<i>"))
    assert "<script>" not in text
    assert "<h3><b>" not in text
    assert "<i>" not in text
    assert "&lt;script&gt;" in text


def test_pictures_are_upright_and_large_ones_are_scaled_down(tmp_path):
    pixels = noise(90, 60)
    turned = Image.fromarray(np.rot90(pixels))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_upload(tmp_path / "turned.png").pixels, pixels)
    Image.fromarray(noise(2 * MAX_SIDE, MAX_SIDE)).save(tmp_path / "large.png")
    picture = read_upload(tmp_path / "large.png")
    assert picture.pixels.shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    assert picture.note == (
        f"Scaled down from {2 * MAX_SIDE}×{MAX_SIDE} to {MAX_SIDE}×{MAX_SIDE // 2} pixels."
    )


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(noise(40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="the picture is too large"):
        read_upload(tmp_path / "bomb.png")


def test_a_deleted_upload_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no longer here: upload it again"):
        read_upload(tmp_path / "gone.png")


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (40, 100)], ids=str)
@pytest.mark.parametrize("name", ["imagenet_swiftformer_xs", "maskrcnn_uniformer_xxs"])
def test_the_clicked_pixel_is_the_one_that_the_network_is_asked_about(models, name, size):
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    x, y = 3 * width // 5, 2 * height // 5
    pixels[y, x] = 255
    picture = Picture(pixels, "")
    large = enlarge(picture)
    rows, columns = np.nonzero(large[..., 0] == 255)
    click = int(columns.mean()), int(rows.mean())
    with models.named(name).in_use() as loaded:
        subject = prepare(loaded, picture, click)
    assert subject.position == (y, x)
    assert subject.pixels[subject.position].min() > 0.99


def test_places_follow_scaling_and_the_crop_of_the_middle():
    picture = picture_of(1024, 512)
    meta = dict(img_shape=(224, 224), scale_factor=(0.5, 0.5))
    # the middle, which stays there; and the corner of the crop: (512 - 224) / 2, (256 - 224) / 2
    assert place_of((512, 256), picture, meta) == (112, 112)
    assert place_of((2 * 144, 2 * 16), picture, meta) == (0, 0)
    with pytest.raises(ValueError, match="does not see this place"):
        place_of((2 * 143 - 1, 256), picture, meta)


def test_each_step_of_looking_inside_can_be_the_last(models):
    """A request that is cancelled leaves no lock and no hook behind."""
    model, picture = models.named("imagenet_biformer_t"), picture_of(64, 64)
    steps = look(model, picture, "all", None, None)
    assert next(steps)[0] == "Input"
    assert next(steps)[0] == "Bi-level routing"
    with model.in_use() as loaded:
        net = loaded.net
        assert not any(module._forward_hooks for module in net.modules())
    steps.close()
    titles = [title for title, pictures in look(model, picture, "routes", None, (9, 9)) if pictures]
    assert titles == ["Input", "Bi-level routing"]


def test_handlers_turn_mistakes_into_sentences_and_log_bugs(logged):
    @reporting
    def handler(error):
        raise error

    @reporting
    def steps(error):
        yield 1
        raise error

    for call in (handler, lambda error: list(steps(error))):
        with pytest.raises(Exception, match="no fault of yours \\(RuntimeError\\)"):
            call(RuntimeError("secret"))
    assert logged == ["the playground has a bug"] * 2
    with pytest.raises(Exception, match="Choose a model first"):
        reporting(lambda: Models([]).named(None))()


def test_only_another_model_takes_back_the_layer_that_was_chosen(models):
    with gr.Blocks() as page:
        inside.build(models)
    calls = {one.name: one.fn for one in page.fns.values()}
    for handler, takes_back in (("list_layers", False), ("start_over", True)):
        given = calls[handler](models[0].name).constructor_args
        assert given["choices"][1:] == inside.layers_of(models[0])
        assert ("value" in given) == takes_back


@pytest.mark.parametrize(
    ("tab", "handler", "emptied", "sentence"),
    [
        ("detect", "run", 3, "Set the lowest score to a number from 0 to 1"),
        ("inside", "run", 2, "Choose one of the field What to see"),
        ("sketch", "run", 4, "Set the lowest score to a number from 0 to 1"),
        ("sketch", "add_sample", 0, "Choose one of the field Sample sketch"),
        ("compare", "choose_task", 0, "Choose one of the field Task"),
        ("compare", "draw", 0, "Choose one of the field Task"),
    ],
)
def test_an_emptied_field_is_a_sentence(models, tmp_path, tab, handler, emptied, sentence):
    module = import_module(f"hybrid_backbones.playground.{tab}")
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    with gr.Blocks() as page:
        module.build(*(() if tab == "compare" else (models,)))
    fields = {
        "detect": [tmp_path / "a.png", models[0].name, "no second model", 0.3],
        "inside": [tmp_path / "a.png", models[0].name, "features", None],
        "sketch": [tmp_path / "a.png", "locformer_swin_t", "[]", [sample_sketch("ring", 0)], 0.3],
        "compare": ["ImageNet-1k", [], None, None],
    }[tab]
    values = {"add_sample": ["ring", "[]", []], "choose_task": ["?"]}.get(handler, fields)
    values[emptied] = None
    (call,) = {one.fn for one in page.fns.values() if one.name == handler}
    # a generator works only when it is asked
    steps = call if isgeneratorfunction(call) else lambda *given: iter([call(*given)])
    with pytest.raises(gr.Error, match=sentence):
        next(steps(*values))


def test_an_emptied_second_model_is_no_second_model(models, tmp_path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    with gr.Blocks() as page:
        detect.build(models)
    (call,) = {one.fn for one in page.fns.values() if one.name == "run"}
    (shown,) = call(tmp_path / "a.png", models[0].name, None, 0.3)
    assert models[0].name in shown[1]
    assert shown[3:] == (None, "")


def test_gradients_stay_off_after_a_request(models):
    find(models[0], picture_of(64, 64), 0.3)
    assert torch.is_grad_enabled()

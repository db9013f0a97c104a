"""Search by sketch: strokes of any hand become the sketches that models learned from."""

import json

import numpy as np
import pytest
from demo_cases import noise
from PIL import Image
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput

from hybrid_backbones.inference.sketch import search
from hybrid_backbones.locformer.demo import render_as_tested
from hybrid_backbones.locformer.fusion import StageFusion
from hybrid_backbones.playground import sketch
from hybrid_backbones.playground.images import read_upload
from hybrid_backbones.playground.models import Model

from .conftest import Visit, start_browser

MODEL = "locformer_swin_t"
EMPTY = "The sketch is empty: draw the outline of what you look for."


def circle(radius, centre=(0.5, 0.5), number=40):
    angles = np.linspace(0, 2 * np.pi, number)
    return np.array([radius * np.cos(angles), radius * np.sin(angles)]) + np.array(centre)[:, None]


def drawn(*strokes):
    return json.dumps([stroke.tolist() for stroke in strokes])


RING = (circle(0.35), circle(0.18))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("sketch") / "picture.png"
    Image.fromarray(noise(96, 128)).save(path)
    return path


@pytest.mark.parametrize("config", ["locformer_swin_t", "locformer_swin_t --mini"])
def test_place_size_and_speed_of_the_hand_do_not_change_a_sketch(config, models, repository):
    cfg = models.named(MODEL).cfg
    if "mini" not in config:
        cfg = type(cfg).fromfile(repository / f"configs/{config}.py")
    (usual,) = render_as_tested(cfg, [sketch.read_strokes(drawn(*RING))])
    moved = [0.2 * stroke + [[0.7], [0.05]] for stroke in RING]
    (other,) = render_as_tested(cfg, [sketch.read_strokes(drawn(*moved))])
    np.testing.assert_array_equal(other, usual)
    slow = drawn(circle(0.35, number=400), circle(0.18, number=400))
    (finer,) = render_as_tested(cfg, [sketch.read_strokes(slow)])
    # lines of one pixel may fall on the next one
    assert overlap(finer, usual) > 0.95


def overlap(one, other, reach=1):
    """Return the share of the ink of each that is within reach of the ink of the other."""

    def near(ink):
        padded = np.pad(ink, reach)
        shifts = range(2 * reach + 1)
        height, width = ink.shape
        return np.any([padded[i : i + height, j : j + width] for i in shifts for j in shifts], 0)

    one, other = one > 0, other > 0
    return min(near(other)[one].mean(), near(one)[other].mean())


def test_a_sample_is_the_same_on_the_canvas_as_in_its_file(models):
    cfg = models.named(MODEL).cfg
    sample = sketch.sample_sketch("ring", 0)
    (rendered,) = render_as_tested(cfg, [sketch.read_strokes(sample)])
    path = sketch.find_drawings(sketch.draw_shape_sketches(sketch.draw_mini("data/mini")), "ring")
    (expected,) = render_as_tested(cfg, [sketch.DrawingFile(path, "test")[0]])
    np.testing.assert_array_equal(rendered, expected)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, EMPTY),
        ("", EMPTY),
        ("[]", EMPTY),
        ("[[[],[]]]", EMPTY),
        ("[[[0.5],[0.5]]]", "The sketch is only a dot"),
        (drawn(circle(0.01)), "The sketch is only a dot"),
        ("[[1]]", "cannot be read"),
        ("{", "cannot be read"),
        ('[[["a"],["b"]]]', "cannot be read"),
        ("[[[NaN, 1],[0, 1]]]", "cannot be read"),
        ("[[[[1]],[[2]]]]", "cannot be read"),
        (drawn(circle(0.3, number=30_000)), "too many lines"),
    ],
)
def test_what_is_no_sketch_is_refused_with_a_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        sketch.read_strokes(given)
    assert "\n" not in str(error.value)


def test_at_most_five_sketches_are_taken():
    one = drawn(*RING)
    kept = []
    for _ in range(sketch.MAX_SKETCHES):
        kept = sketch.keep(one, kept)
    assert kept == [one] * 5 == sketch.gather("[]", kept)
    for add in (sketch.keep, sketch.gather):
        with pytest.raises(ValueError, match="There are 6 sketches, but at most 5"):
            add(one, kept)
    with pytest.raises(ValueError, match="empty"):
        sketch.gather("", [])


@pytest.mark.parametrize("given", ["{", "[1]", "1"])
def test_a_tampered_drawing_is_a_mistake_not_a_crash(given):
    with pytest.raises(ValueError, match="cannot be read"):
        sketch.gather(given, [])


def test_the_page_finds_what_the_tool_finds(models, picture):
    model, upload = models.named(MODEL), read_upload(picture)
    found = sketch.find(model, upload, [drawn(*RING)], 0.0)
    with model.in_use() as loaded:
        item = loaded.pipeline(upload.item() | dict(sketches=found.sketches))
        prediction, attention = search(loaded.net, item, found.sketches)
        hooks = [m._forward_hooks for m in loaded.net.modules() if isinstance(m, StageFusion)]
    assert hooks
    assert not any(hooks)
    assert attention.shape == upload.pixels.shape[:2]
    scores = [float(score) for _, score, _ in found.result.rows]
    assert scores == sorted(scores, reverse=True)
    assert scores == [round(score, 2) for score in prediction.pred_instances.scores.tolist()]
    assert found.result.drawn.shape == found.attention.shape
    assert found.result.drawn.shape[1] >= 512
    assert "trained with one sketch at a time; it averages" in found.result.words
    assert not sketch.find(model, upload, [drawn(*RING)], 1.0).result.rows


def test_five_equal_sketches_find_what_one_finds(models, picture):
    model, upload = models.named(MODEL), read_upload(picture)
    one, five = (sketch.find(model, upload, n * [drawn(*RING)], 0.0) for n in (1, 5))
    assert five.sketches.shape == (5, *one.sketches.shape[1:])
    assert five.result.rows == one.result.rows
    square = np.array([[0.2, 0.8, 0.8, 0.2, 0.2], [0.2, 0.2, 0.8, 0.8, 0.2]])
    other = sketch.find(model, upload, [drawn(*RING), drawn(square)], 0.0)
    assert (other.attention != one.attention).any()


def test_a_model_in_training_and_a_missing_one_are_sentences(models, picture):
    def training():
        raise ValueError("locformer_swin_t is being trained (40 %): try again then")

    cfg, upload = models.named(MODEL).cfg, read_upload(picture)
    with pytest.raises(ValueError, match="is being trained"):
        sketch.find(Model("x", cfg, training), upload, [drawn(*RING)], 0.3)
    with pytest.raises(ValueError, match=r"none\.pth"):
        sketch.find(Model("x", cfg, picture.parent / "none.pth"), upload, [drawn(*RING)], 0.3)


def test_what_a_model_makes_of_several_sketches_is_said(repository):
    cfg = Model("x", sketch.Config.fromfile(repository / "configs/locformer_swin_t_5sketch.py"), "")
    assert "trained with 5 sketches at a time; it mixes" in sketch.say_number(cfg.cfg)


def draw(visit, *strokes, kind="mouse"):
    """Draw strokes, in shares of the canvas, with the mouse or a finger."""
    canvas = visit.find("#sketch-canvas canvas")
    visit.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    side = canvas.size["width"]
    for stroke in strokes:
        builder = ActionBuilder(visit.browser, mouse=PointerInput(kind, kind), duration=5)
        pen = builder.pointer_action
        # from the middle of the canvas
        (x, y), *others = np.round((stroke.T - 0.5) * side).astype(int).tolist()
        pen.move_to(canvas, x, y)
        pen.pointer_down()
        for x, y in others:
            pen.move_to(canvas, x, y)
        pen.pointer_up()
        builder.perform()


def ink(visit):
    """Return the share of the canvas that is drawn on."""
    script = """const canvas = arguments[0], pen = canvas.getContext('2d');
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((value, i) => i % 4 == 3 && value).length / pixels.length * 4"""
    return visit.browser.execute_script(script, visit.find("#sketch-canvas canvas"))


def press(visit, name):
    visit.find(f"#sketch-canvas .{name}").click()


HAND = (circle(0.35, number=16), circle(0.18, number=12))


@pytest.mark.slow
def test_a_ring_drawn_with_the_mouse_is_searched_for(visit, picture):
    visit.open_tab("Search by sketch")
    visit.until(lambda: visit.find("#sketch-canvas canvas"))
    visit.click("sketch-run")
    assert visit.sentence() == EMPTY
    draw(visit, *HAND)
    both = ink(visit)
    press(visit, "undo")
    assert 0 < ink(visit) < both
    press(visit, "clear")
    assert ink(visit) == 0
    visit.click("sketch-add")
    assert visit.sentence() == EMPTY
    draw(visit, *HAND)
    visit.click("sketch-run")
    assert visit.sentence().startswith("Choose a picture first")
    visit.upload("sketch-picture", picture)
    visit.wait_for_picture("sketch-picture")
    visit.click("sketch-run")
    assert "trained with one sketch" in visit.wait_for_text("sketch-table", "Time")
    for name in ("sketch-found", "sketch-heat", "sketch-seen"):
        visit.wait_for_picture(name)
    visit.screenshot("sketch")


@pytest.mark.slow
def test_five_sketches_are_added_and_a_sixth_is_refused(visit, picture):
    visit.open_tab("Search by sketch")
    visit.until(lambda: visit.find("#sketch-canvas canvas"))
    draw(visit, HAND[0])
    visit.click("sketch-add")
    # what was added leaves the canvas
    visit.until(lambda: ink(visit) == 0)
    widths = [width_of(visit, 0)]
    for _ in range(4):
        visit.click("sketch-sample")
        widths.append(width_of(visit, widths[-1]))
    assert widths == [number * widths[0] for number in range(1, 6)]
    draw(visit, HAND[0])
    visit.click("sketch-add")
    assert visit.sentence().startswith("There are 6 sketches, but at most 5")
    press(visit, "clear")
    visit.upload("sketch-picture", picture)
    visit.wait_for_picture("sketch-picture")
    visit.click("sketch-run")
    visit.wait_for_text("sketch-table", "Time")
    visit.screenshot("sketch-five")
    visit.click("sketch-remove")
    assert visit.until(lambda: width_of(visit, widths[4])) == widths[3]


def width_of(visit, before):
    """Return the width in pixels of the picture of added sketches, once it has changed."""

    def width():
        image = visit.find("#sketch-kept img")
        now = image and visit.browser.execute_script("return arguments[0].naturalWidth", image)
        return now if now and now != before else None

    return visit.until(width)


@pytest.mark.slow
def test_a_finger_draws_on_a_phone(address, picture):
    phone = start_browser(500, 800)
    try:
        phone.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            dict(width=375, height=740, deviceScaleFactor=2, mobile=True),
        )
        phone.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", dict(enabled=True))
        visit = Visit(phone, address)
        visit.open_tab("Search by sketch")
        visit.until(lambda: visit.find("#sketch-canvas canvas"))
        visit.upload("sketch-picture", picture)
        visit.wait_for_picture("sketch-picture")
        draw(visit, *HAND, kind="touch")
        assert ink(visit) > 0.02
        visit.screenshot("phone-sketch-canvas")
        visit.click("sketch-run")
        visit.wait_for_text("sketch-table", "Time")
        visit.wait_for_picture("sketch-heat")
        visit.screenshot("phone-sketch-found")
        assert phone.execute_script("return document.documentElement.scrollWidth") <= 375
    finally:
        phone.quit()
